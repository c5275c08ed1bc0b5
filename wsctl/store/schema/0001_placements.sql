-- Who lives where: the truth. `generation` is the fencing token of every write.
CREATE TABLE IF NOT EXISTS placements (
  cluster $name NOT NULL,
  user $name NOT NULL,
  node $name NOT NULL,
  address $name NOT NULL,
  host_port $int NOT NULL CHECK (host_port BETWEEN 1 AND 65535),
  state $name NOT NULL,
  generation $bigint NOT NULL CHECK (generation >= 1),
  container_generation $bigint NOT NULL CHECK (container_generation >= 1),
  memory_bytes $bigint NOT NULL CHECK (memory_bytes >= 0),
  cpus_milli $bigint NOT NULL CHECK (cpus_milli >= 0),
  pids $bigint NOT NULL CHECK (pids >= 0),
  workspace_class $name NOT NULL,
  created_at $time NOT NULL,
  updated_at $time NOT NULL,
  PRIMARY KEY (cluster, user),
  CONSTRAINT placements_host_port UNIQUE (cluster, node, host_port)
) $options
