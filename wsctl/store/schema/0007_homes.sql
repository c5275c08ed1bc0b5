-- Where the files of a user are who was removed. Counts only while the user has no placement.
CREATE TABLE IF NOT EXISTS homes (
  cluster $name NOT NULL,
  user $name NOT NULL,
  node $name NOT NULL,
  since $time NOT NULL,
  PRIMARY KEY (cluster, user)
) $options
