-- Moves that were begun: what each has reserved on its target. Ends with the next operation on the user.
CREATE TABLE IF NOT EXISTS moves (
  cluster $name NOT NULL,
  user $name NOT NULL,
  source $name NOT NULL,
  target $name NOT NULL,
  address $name NOT NULL,
  host_port $int NOT NULL CHECK (host_port BETWEEN 1 AND 65535),
  memory_bytes $bigint NOT NULL CHECK (memory_bytes >= 0),
  cpus_milli $bigint NOT NULL CHECK (cpus_milli >= 0),
  pids $bigint NOT NULL CHECK (pids >= 0),
  active $int NOT NULL CHECK (active IN (0, 1)),
  began_at $time NOT NULL,
  PRIMARY KEY (cluster, user),
  CONSTRAINT moves_host_port UNIQUE (cluster, target, host_port)
) $options
