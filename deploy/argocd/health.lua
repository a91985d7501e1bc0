-- What Argo CD says of a SecurityProfile. docs/how-to/gitops.md installs it.
-- Given is `obj`, the object as the API has it; returned is a table of `status` and `message`.

local function health(status, message)
  return { status = status, message = message }
end

local status = obj.status or {}
local conditions = {}
for _, one in ipairs(status.conditions or {}) do
  conditions[one.type] = one
end
local ready = conditions.Ready

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", ready and ready.message or "it is being deleted")
end

-- Conditions of an earlier generation say nothing of what was applied last.
if ready == nil or status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "waiting for hauberk-operator to look at it")
end

local told = ready.reason .. ": " .. ready.message

if ready.status == "True" then
  return health("Healthy", ready.message)
end

-- No node is targeted: none lacks the profile, and a node group at zero gets its first node only once pods are there.
if ready.reason == "NoNodes" and conditions.Available and conditions.Available.status == "True" then
  return health("Healthy", told)
end

if ready.reason == "Suspended" then
  return health("Suspended", told)
end

if conditions.Stalled and conditions.Stalled.status == "True" then
  return health("Degraded", told)
end

return health("Progressing", told)
