-- Health of an UpgradePlan. Argo CD runs it with Lua's base and table libraries alone.
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

local ready = conditions["Ready"]

if obj.metadata.deletionTimestamp ~= nil then
  if ready ~= nil then
    return health("Progressing", "its targets are being given back: " .. told(ready))
  end
  return health("Progressing", "its targets are being given back")
end

-- What is said of an earlier generation is no longer true.
if ready == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "waiting for the upgrader to see generation " .. obj.metadata.generation)
end

local stalled = conditions["Stalled"]
if stalled ~= nil and stalled.status == "True" then
  return health("Degraded", told(stalled))
end

if ready.status == "True" then
  return health("Healthy", ready.message)
end

-- A paused plan has something left to do and waits for people.
if obj.spec.paused == true and ready.reason == "Paused" then
  return health("Suspended", told(ready))
end

return health("Progressing", told(ready))
