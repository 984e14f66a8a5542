-- wrk's part of the peers bench: requests are built before the load begins and sent in turn, so that
-- the generator does nothing per request but take the next one. Arguments: method, first tenant,
-- body's bytes. Prints one line that begins with `peers`.

local TENANTS, STEP, REQUESTS = 100000, 2, 4096
local requests, turn = {}, 0

function init(args)
    local method, first, body = args[1], tonumber(args[2]), tonumber(args[3])
    math.randomseed(7)
    for i = 1, REQUESTS do
        local number = first + STEP * math.random(0, TENANTS / STEP - 1)
        local headers = { ["X-MAIA-Tenant-ID"] = string.format("tenant-%06d", number) }
        local text = nil
        if method ~= "GET" then
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = tostring(body)
            text = string.rep("x", body)
        end
        requests[i] = wrk.format(method, "/v1/data/notes/note-" .. i .. "?fields=title", headers, text)
    end
end

function request()
    turn = turn % REQUESTS + 1
    return requests[turn]
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format("peers %d %d %d %d\n", summary.requests,
        e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
