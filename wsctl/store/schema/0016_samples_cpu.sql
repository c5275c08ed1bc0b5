-- The CPU time seen with each network counter.
ALTER TABLE samples ADD COLUMN cpu_ns $bigint NULL
