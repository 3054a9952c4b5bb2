import { createHash } from 'node:crypto';

/**
 * All that has to happen at once, in the server's own language. The keys of each script lie in one slot. A script never
 * raises in the middle of a batch: what can fail is asked by `pcall`, so that every message has a result of its own.
 */
export interface Script {
  readonly lua: string;
  readonly sha: string;
}

function script(...parts: readonly string[]): Script {
  const lua = parts.join('\n');
  return { lua, sha: createHash('sha1').update(lua).digest('hex') };
}

/** One that also runs when memory is full: what keeps members alive, lets them settle, and so makes room. */
function vital(...parts: readonly string[]): Script {
  return script('#!lua flags=allow-oom', ...parts);
}

/** A consumer that nobody is: it has what members let go, for whoever comes first. */
const freeConsumer = 'waybill-free';
/** Consumers that we made begin so; those of other programs are left alone. */
export const consumerPrefix = 'waybill-';
/** The one consumer of a lane, whoever owns it: what is pending there belongs to the lane. */
const laneConsumer = 'waybill-lane';

/** Most values that Lua hands to one command. */
const unpackLimit = 4_000;

const helpers = `
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function map(flat)
  local m = {}
  for i = 1, #flat, 2 do m[flat[i]] = flat[i + 1] end
  return m
end
local function failed(reply)
  return type(reply) == 'table' and reply.err
end
local function groupOf(stream, name)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if failed(groups) then return nil end
  for _, flat in ipairs(groups) do
    if flat[2] == name then return map(flat), #groups end
  end
  return nil
end
-- Whether one id comes after another: their parts may be larger than Lua's numbers.
local function isAfter(a, b)
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  if #am ~= #bm then return #am > #bm end
  if am ~= bm then return am > bm end
  if #as ~= #bs then return #as > #bs end
  return as > bs
end
local function set(fields, name, value)
  for i = 1, #fields, 2 do
    if fields[i] == name then fields[i + 1] = value return end
  end
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
local function get(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return nil
end
local function without(fields, drop)
  local kept = {}
  for i = 1, #fields, 2 do
    if not drop(fields[i]) then
      kept[#kept + 1] = fields[i]
      kept[#kept + 1] = fields[i + 1]
    end
  end
  return kept
end
-- Lua hands no more values to a command than this: of an entry with more the last foreign fields are left out.
local function store(stream, fields)
  if #fields <= ${unpackLimit} then return redis.pcall('XADD', stream, '*', unpack(fields)) end
  local kept = {}
  local room = ${unpackLimit}
  for i = 1, #fields, 2 do
    if fields[i] == 'body' or string.sub(fields[i], 1, 8) == 'waybill-' then room = room - 2 end
  end
  for i = 1, #fields, 2 do
    local needed = fields[i] == 'body' or string.sub(fields[i], 1, 8) == 'waybill-'
    if needed or room > 0 then
      if not needed then room = room - 2 end
      kept[#kept + 1] = fields[i]
      kept[#kept + 1] = fields[i + 1]
    end
  end
  return redis.pcall('XADD', stream, '*', unpack(kept))
end
local function ackAll(stream, group, ids, delete)
  for from = 1, #ids, ${unpackLimit} do
    local to = math.min(#ids, from + ${unpackLimit - 1})
    redis.call('XACK', stream, group, unpack(ids, from, to))
    if delete then redis.call('XDEL', stream, unpack(ids, from, to)) end
  end
end
`;

/**
 * How many messages were trimmed before the group read them (RET-02), and the oldest id that is left. The stream is
 * looked at, first message and last included, only when nothing is left in it that the group has read.
 */
const losing = `
local function lostOf(stream, g)
  local read = g['entries-read']
  if not read or (g.lag and g.lag < redis.call('XLEN', stream)) then return 0, '' end
  local info = map(redis.call('XINFO', 'STREAM', stream))
  local lost = info['entries-added'] - info.length - read
  local left = info['first-entry'] and info['first-entry'][1] or info['last-generated-id']
  if lost <= 0 or not isAfter(left, g['last-delivered-id']) then return 0, '' end
  return lost, left
end
`;

/** Entries of consumers that are dead, or nobody: `claimable(stream, group, me, members)` gives their names. */
const taking = `
local function claimable(stream, group, me, members, at)
  local names = {}
  local summary = redis.call('XPENDING', stream, group)
  local own = 0
  local free = 0
  for _, pair in ipairs(summary[4] or {}) do
    local name, count = pair[1], tonumber(pair[2])
    if name == me then own = count
    elseif name == '${freeConsumer}' then
      names[#names + 1] = name
      free = free + count
    elseif string.sub(name, 1, ${consumerPrefix.length}) == '${consumerPrefix}' then
      local alive = redis.call('ZSCORE', members, name)
      if not alive or tonumber(alive) <= at then
        names[#names + 1] = name
        free = free + count
      end
    end
  end
  return names, free, own
end
local function take(stream, group, me, names, max, found, deleted)
  for _, name in ipairs(names) do
    if #found >= max then break end
    for _, p in ipairs(redis.call('XPENDING', stream, group, '-', '+', max - #found, name)) do
      local count = p[4] + 1
      local got = redis.call('XCLAIM', stream, group, me, 0, p[1], 'RETRYCOUNT', count)
      if got[1] then found[#found + 1] = { p[1], count, got[1][2] }
      else
        redis.call('XACK', stream, group, p[1])
        deleted[#deleted + 1] = p[1]
      end
    end
  end
end
`;

/** Bytes of messages that one script moves, more or less: nobody else is served meanwhile (10 ms a MiB). */
export const moveBytes = 4 * 1024 * 1024;

/** Moves what is due out of a sorted set; gives the time of the next one, or -1. */
const moving = `
local function moveDue(from, target, at, limit)
  local moved, bytes = 0, 0
  while moved < limit and bytes < ${moveBytes} do
    -- One shows how large they are; then as many as there is room for.
    local room = moved == 0 and 1 or math.ceil((${moveBytes} - bytes) * moved / bytes)
    local due = redis.call('ZRANGEBYSCORE', from, '-inf', at, 'LIMIT', 0, math.min(limit - moved, room))
    if not due[1] then break end
    for _, member in ipairs(due) do
      local item = cmsgpack.unpack(member)
      local stored = store(target(item[2]), item[3])
      if failed(stored) then return at end
      redis.call('ZREM', from, member)
      moved = moved + 1
      bytes = bytes + #member
    end
  end
  local first = redis.call('ZRANGE', from, 0, 0, 'WITHSCORES')
  if not first[1] then return -1 end
  return tonumber(first[2])
end
`;

/**
 * KEYS facts. ARGV ordered, lanes. Gives what stands there afterwards: ordered, lanes.
 */
export const makeTopic = script(`
redis.call('HSETNX', KEYS[1], 'lanes', ARGV[2])
redis.call('HSETNX', KEYS[1], 'ordered', ARGV[1])
return redis.call('HMGET', KEYS[1], 'ordered', 'lanes')
`);

/**
 * Where a group begins: none stands in the future, where it would skip what is published until then. Clocks differ, so
 * only the server can tell.
 */
const starting = `
local function startOf(start, last)
  if string.find(start, '-', 1, true) and isAfter(start, last) then return '$' end
  return start
end
`;

/**
 * KEYS stream, retry, alone, deadLetters, and facts where the group has members that share one stream. ARGV group, start,
 * extra ('1': with a stream of messages set apart), back ('1': one that is there goes back to the start, never forward). The
 * start is '$', '0', or the id of the last message to be skipped. The facts tell by the time when a group was made anew.
 */
export const makeGroup = script(
  helpers,
  starting,
  `
local group = ARGV[1]
local function made(reply)
  if not failed(reply) then return 1 end
  if string.find(reply.err, 'BUSYGROUP', 1, true) then return 0 end
  error(reply.err, 0)
end
local added, length, last = 0, 0, '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
  local kind = redis.call('TYPE', KEYS[1])
  if kind.ok ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is no stream') end
  local info = map(redis.call('XINFO', 'STREAM', KEYS[1]))
  added, length, last = info['entries-added'], info.length, info['last-generated-id']
end
local start = startOf(ARGV[2], last)
local isNew
if start == '$' then isNew = made(redis.pcall('XGROUP', 'CREATE', KEYS[1], group, last, 'MKSTREAM', 'ENTRIESREAD', added))
elseif start == '0' then isNew = made(redis.pcall('XGROUP', 'CREATE', KEYS[1], group, '0', 'MKSTREAM', 'ENTRIESREAD', added - length))
else isNew = made(redis.pcall('XGROUP', 'CREATE', KEYS[1], group, start, 'MKSTREAM')) end
made(redis.pcall('XGROUP', 'CREATE', KEYS[2], group, '0', 'MKSTREAM'))
if ARGV[3] == '1' then made(redis.pcall('XGROUP', 'CREATE', KEYS[3], group, '0', 'MKSTREAM')) end
if isNew == 1 and KEYS[5] then redis.call('HSET', KEYS[5], 'made:' .. group, table.concat(redis.call('TIME'), '.'))
elseif isNew == 0 and ARGV[4] == '1' and start ~= '$' then
  local from = start == '0' and '0-0' or start
  if isAfter(groupOf(KEYS[1], group)['last-delivered-id'], from) then redis.call('XGROUP', 'SETID', KEYS[1], group, from) end
end
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[4], group, '0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[4], group)
end
return 1
`,
);

/** KEYS stream. ARGV group, start as for `makeGroup`. */
export const seekGroup = script(
  helpers,
  starting,
  `
if not groupOf(KEYS[1], ARGV[1]) then return redis.error_reply('NOGROUP ' .. KEYS[1]) end
local info = map(redis.call('XINFO', 'STREAM', KEYS[1]))
local added, length, last = info['entries-added'], info.length, info['last-generated-id']
local start = startOf(ARGV[2], last)
if start == '$' then redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', added)
elseif start == '0' then redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], '0', 'ENTRIESREAD', added - length)
else redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], start) end
return 1
`,
);

/** KEYS stream, and all of the same slot that is only the group's. ARGV group. */
export const dropGroup = vital(`
redis.pcall('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
`);

/** KEYS temporary. ARGV group, milliseconds that it lives from now on. */
export const keepTemporary = vital(
  helpers,
  `
redis.call('ZADD', KEYS[1], now() + ARGV[2], ARGV[1])
return 1
`,
);

/** KEYS temporary. Gives groups of broadcasts that nobody uses any more. */
export const expiredTemporary = vital(
  helpers,
  `
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', 0, 100)
`,
);

/** KEYS delayed. ARGV delay, a name of its own, fields… */
export const storeDelayed = script(
  helpers,
  `
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('ZADD', KEYS[1], now() + ARGV[1], cmsgpack.pack({ ARGV[2], 'topic', fields }))
return 1
`,
);

/** KEYS delayed, stream. ARGV limit. Gives milliseconds until the next, or -1. */
export const moveDelayed = vital(
  helpers,
  moving,
  `
local at = now()
local due = moveDue(KEYS[1], function() return KEYS[2] end, at, tonumber(ARGV[1]))
if due < 0 then return -1 end
return math.max(0, math.ceil(due - at))
`,
);

/**
 * A member's pulse. KEYS stream, retry, alone, waiting, members, delayed, temporary, facts.
 * ARGV group, me, lease, limit, lifetime of a temporary group or 0, clean ('1': remove dead consumers), look ('1').
 * Gives milliseconds until something is due or -1, how much can be taken over, how much is our own, when the group was
 * made; with a look, how many groups the stream has, the group's last id, and as `lostOf`.
 */
export const pulse = vital(
  helpers,
  taking,
  moving,
  losing,
  `
local group, me, limit = ARGV[1], ARGV[2], tonumber(ARGV[4])
local at = now()
-- These raise NOGROUP where one of the three is gone.
local _, free, own = claimable(KEYS[1], group, me, KEYS[5], at)
local _, freeRetries, ownRetries = claimable(KEYS[2], group, me, KEYS[5], at)
redis.call('XPENDING', KEYS[3], group)
redis.call('ZADD', KEYS[5], at + ARGV[3], me)
if ARGV[5] ~= '0' then redis.call('ZADD', KEYS[7], at + ARGV[5], group) end
local due = moveDue(KEYS[4], function(to) if to == 'alone' then return KEYS[3] end return KEYS[2] end, at, limit)
local delayed = moveDue(KEYS[6], function() return KEYS[1] end, at, limit)
if delayed >= 0 and (due < 0 or delayed < due) then due = delayed end
if ARGV[6] == '1' then
  local names = {}
  for s = 1, 3 do
    local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[s], group)
    if not failed(consumers) then
      for _, flat in ipairs(consumers) do
        local c = map(flat)
        local alive = redis.call('ZSCORE', KEYS[5], c.name)
        local dead = not alive or tonumber(alive) <= at
        if string.sub(c.name, 1, ${consumerPrefix.length}) == '${consumerPrefix}' and c.name ~= '${freeConsumer}' and dead then
          if c.pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[s], group, c.name) end
        end
      end
    end
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', at - 86400000)
end
if due >= 0 then due = math.max(0, math.ceil(due - at)) end
local made = redis.call('HGET', KEYS[8], 'made:' .. group) or ''
if ARGV[7] == '0' then return { due, free + freeRetries, own + ownRetries, made } end
local mine, groups = groupOf(KEYS[1], group)
return { due, free + freeRetries, own + ownRetries, made, groups, mine['last-delivered-id'], lostOf(KEYS[1], mine) }
`,
);

/**
 * Takes over what belongs to dead members, or to nobody. KEYS stream, retry, members. ARGV group, me, max.
 * Gives entries { stream, id, deliveries, fields }, and ids of entries that are gone.
 */
export const takeOver = vital(
  helpers,
  taking,
  `
local at = now()
local found, deleted = {}, {}
for s = 2, 1, -1 do
  local part = {}
  local names = claimable(KEYS[s], ARGV[1], ARGV[2], KEYS[3], at)
  take(KEYS[s], ARGV[1], ARGV[2], names, ARGV[3] - #found, part, deleted)
  for _, one in ipairs(part) do found[#found + 1] = { s, one[1], one[2], one[3] } end
end
return { found, deleted }
`,
);

/** KEYS stream, retry. ARGV group, me. Gives { stream, id } of all that is ours by the server's book. */
export const listOwn = vital(
  `
local all = {}
for s = 1, 2 do
  local from = '-'
  repeat
    local page = redis.call('XPENDING', KEYS[s], ARGV[1], from, '+', 1000, ARGV[2])
    for _, p in ipairs(page) do
      all[#all + 1] = { s, p[1] }
      from = '(' .. p[1]
    end
  until #page < 1000
end
return all
`,
);

/**
 * Hands out again what is ours and got lost on the way; it does not count as a delivery. KEYS stream, retry.
 * ARGV group, me, then stream and id of each. Gives as `takeOver`.
 */
export const readOwn = vital(
  `
local found, deleted = {}, {}
for i = 3, #ARGV, 2 do
  local s, id = tonumber(ARGV[i]), ARGV[i + 1]
  local p = redis.call('XPENDING', KEYS[s], ARGV[1], id, id, 1)[1]
  if p and p[2] == ARGV[2] then
    local got = redis.call('XCLAIM', KEYS[s], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', p[4])
    if got[1] then found[#found + 1] = { s, id, p[4], got[1][2] }
    else
      redis.call('XACK', KEYS[s], ARGV[1], id)
      deleted[#deleted + 1] = id
    end
  end
end
return { found, deleted }
`,
);

/** KEYS stream, retry, alone, members. ARGV group, me, lease, then stream and id of each. Gives 1 or 0 for each. */
export const extend = vital(
  helpers,
  `
redis.call('ZADD', KEYS[4], now() + ARGV[3], ARGV[2])
local kept = {}
for i = 4, #ARGV, 2 do
  local stream, id = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local p = redis.pcall('XPENDING', stream, ARGV[1], id, id, 1)
  if not failed(p) and p[1] and p[1][2] == ARGV[2] then
    redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, id, 'JUSTID')
    kept[#kept + 1] = 1
  else kept[#kept + 1] = 0 end
end
return kept
`,
);

/** The fields of an entry, unless it is gone. */
const copying = `
local function copyOf(stream, id)
  local got = redis.call('XRANGE', stream, id, id)
  return got[1] and got[1][2]
end
`;

/**
 * KEYS stream, retry, alone, waiting, deadLetters. ARGV group, me, then of each: stream, id, verb, count, arguments….
 * `ack`; `back` after, attempt, alone; `dead` fields…; `free`. Gives a letter for each: a applied, l lost,
 * n not pending with anybody, r retryable, g lost because the entry is gone.
 */
export const settle = vital(
  helpers,
  copying,
  `
local group, me = ARGV[1], ARGV[2]
local acks = { {}, {}, {} }
local results = {}
local i = 3
while i <= #ARGV do
  local s, id, verb, n = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local result = 'a'
  local p = redis.pcall('XPENDING', KEYS[s], group, id, id, 1)
  if failed(p) then result = 'l'
  elseif not p[1] then result = 'n'
  elseif p[1][2] ~= me then result = 'l'
  elseif verb == 'ack' then acks[s][#acks[s] + 1] = id
  elseif verb == 'free' then
    local count = math.max(0, p[1][4] - 1)
    redis.call('XCLAIM', KEYS[s], group, '${freeConsumer}', 0, id, 'RETRYCOUNT', count, 'JUSTID')
  else
    local fields = copyOf(KEYS[s], id)
    local stored
    if not fields then result = 'g'
    elseif verb == 'back' then
      local after, alone = tonumber(ARGV[i + 4]), ARGV[i + 6]
      set(fields, 'waybill-attempt', ARGV[i + 5])
      if s == 1 and not get(fields, 'waybill-position') then set(fields, 'waybill-position', id) end
      local to = alone == '1' and 'alone' or 'retry'
      if after > 0 then stored = redis.pcall('ZADD', KEYS[4], now() + after, cmsgpack.pack({ s .. ':' .. id, to, fields }))
      else stored = store(to == 'alone' and KEYS[3] or KEYS[2], fields) end
    else
      fields = without(fields, function(name) return name == 'waybill-attempt' end)
      if s == 1 and not get(fields, 'waybill-position') then set(fields, 'waybill-position', id) end
      for j = i + 4, i + 3 + n, 2 do set(fields, ARGV[j], ARGV[j + 1]) end
      stored = store(KEYS[5], fields)
    end
    if failed(stored) then result = 'r' else acks[s][#acks[s] + 1] = id end
  end
  results[#results + 1] = result
  i = i + 4 + n
end
for s = 1, 3 do ackAll(KEYS[s], group, acks[s], s > 1) end
return table.concat(results)
`,
);

/**
 * KEYS alone, members. ARGV group, me, ids in hand…. Gives { id, deliveries, fields }, or nothing.
 */
export const readAlone = vital(
  helpers,
  taking,
  `
local group, me = ARGV[1], ARGV[2]
local inHand = {}
for i = 3, #ARGV do inHand[ARGV[i]] = true end
for _, p in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', #ARGV, me)) do
  if not inHand[p[1]] then
    local got = redis.call('XCLAIM', KEYS[1], group, me, 0, p[1], 'RETRYCOUNT', p[4])
    if got[1] then return { p[1], p[4], got[1][2] } end
    redis.call('XACK', KEYS[1], group, p[1])
  end
end
local found = {}
take(KEYS[1], group, me, claimable(KEYS[1], group, me, KEYS[2], now()), 1, found, {})
if found[1] then return found[1] end
local read = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', 1, 'STREAMS', KEYS[1], '>')
if not read then return {} end
local entry = read[1][2][1]
return { entry[1], 1, entry[2] }
`,
);

/**
 * A member leaves: its consumers go where they own nothing; else it is left to its lease. KEYS stream, retry, alone,
 * members. ARGV group, me.
 */
export const leave = vital(
  helpers,
  `
local empty = true
for s = 1, 3 do
  local p = redis.pcall('XPENDING', KEYS[s], ARGV[1], '-', '+', 1, ARGV[2])
  if not failed(p) then
    if p[1] then empty = false else redis.call('XGROUP', 'DELCONSUMER', KEYS[s], ARGV[1], ARGV[2]) end
  end
end
if empty then redis.call('ZREM', KEYS[4], ARGV[2]) end
return 1
`,
);

/** KEYS members. ARGV me, lease. Gives who lives, in the order of their names. */
export const present = vital(
  helpers,
  `
local at = now()
redis.call('ZADD', KEYS[1], at + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at)
local names = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(names)
return names
`,
);

/**
 * Takes a lane that nobody has, or keeps it. KEYS owner, stream, retry. ARGV me, lease, group.
 * Gives 0 when it is not ours, else 1 where it was and 2 where it is now; the last ids that the group was given, the
 * first that is pending in the stream, and as `lostOf`.
 */
export const ownLane = vital(
  helpers,
  losing,
  `
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return { 0 } end
local mine = groupOf(KEYS[2], ARGV[3])
if not mine then return redis.error_reply('NOGROUP ' .. KEYS[2]) end
local retries = groupOf(KEYS[3], ARGV[3])
if not retries then return redis.error_reply('NOGROUP ' .. KEYS[3]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local pending = redis.call('XPENDING', KEYS[2], ARGV[3])[2] or ''
return { owner and 1 or 2, mine['last-delivered-id'], retries['last-delivered-id'], pending, lostOf(KEYS[2], mine) }
`,
);

/** KEYS owner. ARGV me. */
export const leaveLane = vital(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
`);

/**
 * The next of a lane, for its owner alone. KEYS owner, stream, retry. ARGV me, group, max. Gives nothing where the lane is
 * not ours, else entries { stream, id, fields }. A redriven message comes when its lane has been read up to where it was
 * redriven.
 */
export const readLane = vital(
  helpers,
  `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local group, max = ARGV[2], tonumber(ARGV[3])
local found = {}
local function add(s, reply)
  if not reply then return end
  for _, entry in ipairs(reply[1][2]) do found[#found + 1] = { s, entry[1], entry[2] } end
end
add(1, redis.call('XREADGROUP', 'GROUP', group, '${laneConsumer}', 'COUNT', max, 'STREAMS', KEYS[2], '>'))
while #found < max do
  local retries = groupOf(KEYS[3], group)
  if not retries then break end
  local next = redis.call('XRANGE', KEYS[3], '(' .. retries['last-delivered-id'], '+', 'COUNT', 1)[1]
  if not next then break end
  local behind = get(next[2], 'waybill-behind')
  local read = groupOf(KEYS[2], group)['last-delivered-id']
  if behind and isAfter(behind, read) and redis.call('XRANGE', KEYS[2], '(' .. read, '+', 'COUNT', 1)[1] then break end
  add(2, redis.call('XREADGROUP', 'GROUP', group, '${laneConsumer}', 'COUNT', 1, 'STREAMS', KEYS[3], '>'))
end
return found
`,
);

/**
 * All that is pending in a lane. KEYS owner, stream, retry. ARGV me, group. Gives nothing where the lane is not ours,
 * else { stream, id, id up to which the lane is read before }.
 */
export const pendingOfLane = vital(
  helpers,
  `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local all = {}
for s = 1, 2 do
  local from = '-'
  repeat
    local page = redis.call('XPENDING', KEYS[s + 1], ARGV[2], from, '+', 1000)
    for _, p in ipairs(page) do
      local behind = ''
      if s == 2 then
        local entry = redis.call('XRANGE', KEYS[3], p[1], p[1])[1]
        behind = entry and get(entry[2], 'waybill-behind') or ''
      end
      all[#all + 1] = { s, p[1], behind }
      from = '(' .. p[1]
    end
  until #page < 1000
end
return all
`,
);

/** KEYS owner, stream, retry. ARGV me, group, then stream and id of each. Gives as `readLane`, and ids that are gone. */
export const readPendingOfLane = vital(
  helpers,
  `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local found, deleted = {}, {}
for i = 3, #ARGV, 2 do
  local s, id = tonumber(ARGV[i]), ARGV[i + 1]
  -- It may have been settled since it was listed.
  if redis.call('XPENDING', KEYS[s + 1], ARGV[2], id, id, 1)[1] then
    local entry = redis.call('XRANGE', KEYS[s + 1], id, id)[1]
    if entry then found[#found + 1] = { s, id, entry[2] }
    else
      redis.call('XACK', KEYS[s + 1], ARGV[2], id)
      deleted[#deleted + 1] = id
    end
  end
end
return { found, deleted }
`,
);

/**
 * KEYS owner, stream, retry, deadLetters. ARGV me, group, place, then as `settle`: `ack`, and `dead` fields….
 * Nothing is done where the lane is not ours.
 */
export const settleLane = vital(
  helpers,
  copying,
  `
local owner, group = redis.call('GET', KEYS[1]), ARGV[2]
local acks = { {}, {} }
local results = {}
local i = 4
while i <= #ARGV do
  local s, id, verb, n = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local result = 'a'
  local p = owner == ARGV[1] and redis.pcall('XPENDING', KEYS[s + 1], group, id, id, 1)
  if not p or failed(p) then result = 'l'
  elseif not p[1] then result = 'n'
  elseif verb == 'dead' then
    local fields = copyOf(KEYS[s + 1], id)
    if fields then
      if s == 1 then set(fields, 'waybill-position', ARGV[3] .. id) end
      fields = without(fields, function(name) return name == 'waybill-attempt' or name == 'waybill-behind' end)
      for j = i + 4, i + 3 + n, 2 do set(fields, ARGV[j], ARGV[j + 1]) end
      if failed(store(KEYS[4], fields)) then result = 'r' end
    else result = 'g' end
    if result ~= 'r' then acks[s][#acks[s] + 1] = id end
  else acks[s][#acks[s] + 1] = id end
  results[#results + 1] = result
  i = i + 4 + n
end
for s = 1, 2 do ackAll(KEYS[s + 1], group, acks[s], s > 1) end
return table.concat(results)
`,
);

/** KEYS deadLetters, retry, stream. ARGV entries' ids…. Gives 1 or 0 for each. */
export const redrive = script(
  helpers,
  `
local last = '0-0'
if redis.call('EXISTS', KEYS[3]) == 1 then last = map(redis.call('XINFO', 'STREAM', KEYS[3]))['last-generated-id'] end
local done = {}
for i = 1, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    local fields = without(entry[2], function(name)
      return string.sub(name, 1, 11) == 'waybill-dl-' or name == 'waybill-expires-at' or name == 'waybill-attempt'
    end)
    set(fields, 'waybill-behind', last)
    local stored = store(KEYS[2], fields)
    if failed(stored) then return redis.error_reply(stored.err) end
    redis.call('XDEL', KEYS[1], ARGV[i])
    done[i] = 1
  else done[i] = 0 end
end
return done
`,
);

/** KEYS deadLetters. ARGV entries' ids…. Gives 1 or 0 for each. */
export const purge = vital(`
local done = {}
for i = 1, #ARGV do done[i] = redis.call('XDEL', KEYS[1], ARGV[i]) end
return done
`);

/**
 * KEYS stream, retry, alone, waiting, members, delayed, owner. ARGV group. Gives waiting, delayed, inFlight, exact.
 * Where the server cannot tell the lag, because entries were deleted, they are counted.
 */
export const lag = vital(
  helpers,
  `
local group, at = ARGV[1], now()
local mine = groupOf(KEYS[1], group)
if not mine then return redis.error_reply('NOGROUP ' .. KEYS[1]) end
local waiting, inFlight, exact = 0, 0, 1
if mine.lag then waiting = mine.lag
else
  local from = mine['last-delivered-id']
  for page = 1, 100 do
    local entries = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', 100)
    waiting = waiting + #entries
    if #entries < 100 then break end
    from = entries[#entries][1]
    if page == 100 then exact = 0 end
  end
end
local pending = 0
for s = 1, 3 do
  local summary = redis.pcall('XPENDING', KEYS[s], group)
  local held = 0
  if not failed(summary) then
    for _, pair in ipairs(summary[4] or {}) do
      local name, count = pair[1], tonumber(pair[2])
      local alive
      if name == '${laneConsumer}' then alive = redis.call('EXISTS', KEYS[7]) == 1
      elseif name == '${freeConsumer}' then alive = false
      elseif string.sub(name, 1, ${consumerPrefix.length}) == '${consumerPrefix}' then
        local till = redis.call('ZSCORE', KEYS[5], name)
        alive = till and tonumber(till) > at
      else alive = true end
      if alive then inFlight = inFlight + count elseif s == 1 then waiting = waiting + count end
      if alive then held = held + count end
    end
  end
  if s > 1 then waiting = waiting + math.max(0, redis.call('XLEN', KEYS[s]) - held) end
end
return { waiting, redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[6]), inFlight, exact }
`,
);

/**
 * Keeps a stream small: what all groups have acked goes, except the last `retain`. KEYS stream. ARGV retain, maxLength
 * or -1.
 */
export const tidy = vital(
  helpers,
  `
local stream = KEYS[1]
if redis.call('EXISTS', stream) == 0 then return 0 end
local maxLength = tonumber(ARGV[2])
if maxLength >= 0 then redis.call('XTRIM', stream, 'MAXLEN', '~', maxLength) end
local spare = redis.call('XLEN', stream) - tonumber(ARGV[1])
if spare > 0 then
  local info = map(redis.call('XINFO', 'STREAM', stream))
  local floor = info['last-generated-id']
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local g = map(flat)
    -- What was delivered last is kept as well: cheaper than finding what comes after it.
    local keep = g['last-delivered-id']
    if g.pending > 0 then
      local first = redis.call('XPENDING', stream, g.name)[2]
      if first and isAfter(keep, first) then keep = first end
    end
    if isAfter(floor, keep) then floor = keep end
  end
  -- Whole nodes only, and never so many that less than asked are left.
  redis.call('XTRIM', stream, 'MINID', '~', floor, 'LIMIT', spare)
end
return 1
`,
);
