-- A new Idempotency-Key with each request.
local number = 0

function setup(thread)
  started = (started or 0) + 1
  thread:set("seed", string.format("%d-%d-%d", os.time(), started, math.random(1e9)))
end

function request()
  number = number + 1
  wrk.headers["Idempotency-Key"] = string.format("%s-%012d", seed, number)
  return wrk.format("POST")
end
