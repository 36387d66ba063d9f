-- Every answer's range, one file a thread of wrk; the checker reads them.
local threads = 0
function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
end
function init(args)
    out = assert(io.open(args[1] .. "/" .. number, "w"))
    out:setvbuf("full")
end
function response(status, headers, body)
    local first, last = body:match('"startIndex": (%-?%d+), "endIndex": (%-?%d+)')
    if status == 200 and first then
        out:write(first, " ", last, "\n")
    else
        out:write("status ", status, "\n")
    end
end
function done(summary, latency, requests)
end
