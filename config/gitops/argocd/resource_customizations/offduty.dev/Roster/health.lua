-- Health of a Roster. Argo CD runs it with Lua's base and table libraries alone.
local function health(status, message)
  return { status = status, message = message }
end

local conditions = {}
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, c in ipairs(obj.status.conditions) do
    conditions[c.type] = c
  end
end

local function told(c)
  return c.reason .. ": " .. c.message
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "being deleted")
end

local ready = conditions["Ready"]
if ready == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "waiting for the arbiter to see generation " .. obj.metadata.generation)
end

local stalled = conditions["Stalled"]
if stalled ~= nil and stalled.status == "True" then
  return health("Degraded", told(stalled))
end

if ready.status == "True" then
  return health("Healthy", ready.message)
end

return health("Progressing", told(ready))
