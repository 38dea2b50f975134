-- Everything that writes the cache, each operation at once for all who look on.
-- KEYS: state, fresh, versions (keys.py) · ARGV: operation, root, log, …
-- Numbers compare as doubles: exact up to 2^53, for microseconds the year 2255.

local state, fresh, versions = KEYS[1], KEYS[2], KEYS[3]
local operation, root, log = ARGV[1], ARGV[2], ARGV[3]

local function run_id()
    return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end

-- Why nothing may be written beside what is held; nil where it may.
local function unsound()
    local held = redis.call('HMGET', state, 'log', 'run')
    if not held[1] then return 'empty' end
    if held[1] ~= log then return 'another log' end
    if held[2] ~= run_id() then return 'restarted' end
    return nil
end

local function parts(version)
    local time, offset = string.match(version, '^(%d+) (%d+)$')
    return tonumber(time), tonumber(offset)
end

local function is_newer(version, held)
    if not held then return true end
    local time, offset = parts(version)
    local held_time, held_offset = parts(held)
    return time > held_time or (time == held_time and offset > held_offset)
end

local function publish(name, fields)
    local named = {}
    for k = 1, #fields, 2 do named[fields[k]] = fields[k + 1] end
    local since = redis.call('HGET', state, 'since')
    redis.call('PUBLISH', root .. 'updates', cjson.encode({since = since, name = name, fields = named}))
end

-- entries: of {name, version, when it expires in epoch ms, {field, text, …}} · space: where names begin
local function put(space, versions_of_space, entries, told)
    local written = 0
    for _, entry in ipairs(entries) do
        local name, version, expires, fields = entry[1], entry[2], entry[3], entry[4]
        if is_newer(version, redis.call('HGET', versions_of_space, name)) then
            redis.call('HSET', versions_of_space, name, version)
            redis.call('UNLINK', space .. name)
            redis.call('HSET', space .. name, unpack(fields))
            redis.call('PEXPIREAT', space .. name, expires)
            written = written + 1
            if told and redis.call('EXISTS', space .. name) == 1 then publish(name, fields) end
        end
    end
    return written
end

local function space_of(id)
    return root .. 'fresh:' .. id .. ':'
end

-- … entries: {'', written}, or why nothing was
if operation == 'write' then
    local why = unsound()
    if why then return {why, 0} end
    local entries = cjson.decode(ARGV[4])
    local id = redis.call('GET', fresh)
    if id then put(space_of(id), space_of(id) .. 'versions', entries, false) end
    return {'', put(root, versions, entries, true)}
end

-- Is this key space still being filled, and by the same run of the server? Another may have lost what was written.
local function is_filled(id)
    return redis.call('GET', fresh) == id and string.match(id, '%w+$') == run_id()
end

-- … a new name, ms that it is kept for its filler: {'', its id}, or 'taken'
if operation == 'begin' then
    local id = ARGV[4] .. '-' .. run_id()
    if redis.call('SET', fresh, id, 'NX', 'PX', ARGV[5]) then return {'', id} end
    return {'taken', ''}
end

-- … entries, id, ms that the key space is kept, ms that it is kept for its filler: {'', written}, or 'lost'
if operation == 'fill' then
    local id = ARGV[5]
    if not is_filled(id) then return {'lost', 0} end
    redis.call('PEXPIRE', fresh, ARGV[7])
    local written = put(space_of(id), space_of(id) .. 'versions', cjson.decode(ARGV[4]), false)
    redis.call('PEXPIRE', space_of(id) .. 'versions', ARGV[6])
    return {'', written}
end

-- … id: {'', names in it}, or 'lost'
if operation == 'swap' then
    local id = ARGV[4]
    if not is_filled(id) then return {'lost', 0} end
    local space, before, count = space_of(id), {}, 0
    if redis.call('HGET', state, 'log') ~= log then
        local now = redis.call('TIME')
        redis.call('HSET', state, 'since', now[1] .. string.format('%06d', now[2]))
    end
    redis.call('HSET', state, 'log', log, 'run', run_id())
    local held = redis.call('HGETALL', versions)
    for k = 1, #held, 2 do
        before[held[k]] = held[k + 1]
        redis.call('UNLINK', root .. held[k])
    end
    redis.call('UNLINK', versions)
    local new = redis.call('HGETALL', space .. 'versions')
    for k = 1, #new, 2 do
        count = count + 1
        if redis.call('EXISTS', space .. new[k]) == 1 then
            redis.call('RENAME', space .. new[k], root .. new[k])
            if before[new[k]] ~= new[k + 1] then publish(new[k], redis.call('HGETALL', root .. new[k])) end
        end
    end
    if count > 0 then
        redis.call('RENAME', space .. 'versions', versions)
        redis.call('PERSIST', versions)
    end
    redis.call('UNLINK', fresh)
    return {'', count}
end

return redis.error_reply('unknown operation')
