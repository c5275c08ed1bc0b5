-- When each user was last seen to be active.
CREATE TABLE IF NOT EXISTS activity (
  cluster $name NOT NULL,
  user $name NOT NULL,
  last_active_at $time NOT NULL,
  source $name NOT NULL,
  PRIMARY KEY (cluster, user)
) $options
