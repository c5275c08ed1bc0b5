-- What is taken on each node. Changed only in the transaction that changes a placement, so that used = counted.
-- `route_changes` counts writes that changed a route on this node: their sum over the nodes is the route generation,
-- and no row of the whole cluster is locked by every write.
CREATE TABLE IF NOT EXISTS node_usage (
  cluster $name NOT NULL,
  node $name NOT NULL,
  workspaces $bigint NOT NULL CHECK (workspaces >= 0),
  active $bigint NOT NULL CHECK (active >= 0),
  memory_bytes $bigint NOT NULL CHECK (memory_bytes >= 0),
  cpus_milli $bigint NOT NULL CHECK (cpus_milli >= 0),
  last_port $int NULL,
  placed_at $time NULL,
  route_changes $bigint NOT NULL CHECK (route_changes >= 0),
  PRIMARY KEY (cluster, node)
) $options
