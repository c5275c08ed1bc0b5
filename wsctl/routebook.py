"""The Lua code that reads a route map inside Nginx (mode `dynamic`).

Responsible for: finding users in the map's text, and noticing a new map. Not responsible for: where the code stands in
the configuration (`snippet`), nor for the form of the text (`maptext`).

Each worker holds the file as one string and searches its sorted lines by halves: a new map is one read and one
assignment, so there is no moment with a half of it, and nothing to size. The file is replaced by renaming, so an open
one is whole; a map that doesn't end with its digest is left alone. Whether there is a new one is looked up every 0.1 s,
by the request that comes then: no timer, and no `init_by_lua` that the administrator may have already.
"""

from __future__ import annotations

BOOK = r"""        local book = package.loaded["wsctl.routes"]
        if not book then
            local byte, sub, floor = string.byte, string.sub, math.floor
            book = { checked = 0, generation = "0", digest = "none", text = "" }
            function book.refresh(now)
                book.checked = now
                local file = io.open("@file@", "rb")
                if not file then return end
                local pattern = "generation ([0-9]+), [0-9]+ routes, sha256 ([0-9a-f]+)"
                local generation, digest = string.match(file:read(256) or "", pattern)
                if digest and (digest ~= book.digest or generation ~= book.generation) then
                    file:seek("set", 0)
                    local text = file:read("*a")
                    local _, first = string.find(text, "\n# Routes\n", 1, true)
                    local states = first and string.find(text, "# States\n", first, true)
                    local finish = states and string.find(text, "# End\n", states, true)
                    if finish and string.find(text, digest, -128, true) then
                        book.text, book.generation, book.digest = text, generation, digest
                        book.recent, book.kept = {}, 0
                        book.first, book.states, book.finish = first + 1, states, finish
                        collectgarbage()
                    end
                end
                file:close()
            end
            function book.find(user, low, high)
                local text, key = book.text, '#   "u:' .. user .. '"'
                while low < high do
                    local start = floor((low + high) / 2)
                    while start > low and byte(text, start - 1) ~= 10 do start = start - 1 end
                    local there = sub(text, start, start + #key - 1)
                    if there == key then
                        return sub(text, start + #key + 1, string.find(text, ";", start, true) - 1)
                    elseif there < key then
                        low = string.find(text, "\n", start, true) + 1
                    else
                        high = start
                    end
                end
                return ""
            end
            function book.look(user, from, to)
                local now = ngx.now()
                if now - book.checked >= 0.1 then book.refresh(now) end
                if user == "" or not book.finish then return "" end
                local known = book.recent[user]
                if known then return known end
                known = book.find(user, book[from], book[to])
                -- Only who is there: strangers' inventions mustn't fill it.
                if known ~= "" and book.kept < 10000 then
                    book.recent[user], book.kept = known, book.kept + 1
                end
                return known
            end
            function book.find_route(user) return book.look(user, "first", "states") end
            function book.find_state(user)
                book.look("")
                return book.finish and book.find(user, book.states + 9, book.finish) or ""
            end
            function book.served()
                book.refresh(ngx.now())
                return book.generation .. " " .. book.digest
            end
            package.loaded["wsctl.routes"] = book
        end
"""
