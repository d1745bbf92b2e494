-- Health of an Advanced StatefulSet, whether or not an UpgradePlan has it.
-- Argo CD runs it with Lua's base and table libraries alone.
--
-- Argo CD's own script takes any partition but 0 for a wish to be asked, and a set whose
-- partition hides all replicas for one that never begins. But while a plan has a set, its
-- partition is the upgrader's tool: 2147483647 ("parked") between upgrades, and lowered by
-- one for each replica that is upgraded.
local PARKED = 2147483647

local function health(status, message)
  return { status = status, message = message }
end

local function of(part, whole, what)
  return part .. " of " .. whole .. " replicas are " .. what
end

local spec, status = obj.spec, obj.status

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "being deleted")
end

if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "waiting for Kruise to see generation " .. obj.metadata.generation)
end

if status.conditions ~= nil then
  for _, c in ipairs(status.conditions) do
    if (c.type == "FailedCreatePod" or c.type == "FailedUpdatePod") and c.status == "True" then
      return health("Degraded", c.type .. ": " .. (c.message or c.reason or "see the set's events"))
    end
  end
end

local want = spec.replicas or 1
local exist = status.replicas or 0
local ready = status.readyReplicas or 0
local updated = status.updatedReplicas or 0
local strategy = spec.updateStrategy or {}
local rolling = strategy.rollingUpdate or {}
local partition = rolling.partition or 0
local armed = obj.metadata.annotations ~= nil and obj.metadata.annotations["offduty.dev/armed"] ~= nil

if exist ~= want then
  return health("Progressing", exist .. " replicas exist, " .. want .. " are wanted")
end

if armed then
  if updated < want then
    return health("Progressing", of(updated, want, "updated; its UpgradePlan decides when the others follow"))
  end
  if partition < PARKED then
    return health("Progressing", "all replicas are updated; its UpgradePlan is concluding the rollout")
  end
  if ready < want then
    return health("Progressing", of(ready, want, "ready"))
  end
  return health("Healthy", of(ready, want, "ready and updated"))
end

if rolling.paused == true and updated < want then
  return health("Suspended", of(updated, want, "updated; the update is paused"))
end

-- Kruise updates all but as many replicas as the partition says.
local due = want - partition
if due < 0 then
  due = 0
end
if strategy.type ~= "OnDelete" and updated < due then
  return health("Progressing", of(updated, due, "updated"))
end
if ready < want then
  return health("Progressing", of(ready, want, "ready"))
end
if updated < want then
  if strategy.type == "OnDelete" then
    return health("Suspended", of(updated, want, "updated; the others wait to be deleted (OnDelete)"))
  end
  return health("Suspended", of(updated, want, "updated; partition " .. partition .. " keeps the others back"))
end
return health("Healthy", of(ready, want, "ready and updated"))
