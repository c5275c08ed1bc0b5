-- Which watcher saw which node when, where there is no Redis; without a node, that the watcher is there.
CREATE TABLE IF NOT EXISTS presence (
  cluster $name NOT NULL,
  watcher $name NOT NULL,
  node $name NOT NULL,
  beat_at $time NOT NULL,
  well_at $time NULL,
  alive_at $time NULL,
  PRIMARY KEY (cluster, watcher, node)
) $options
