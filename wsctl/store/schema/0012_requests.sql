-- Request ids of callers that may ask twice, with the first answer. Forgotten after a while.
CREATE TABLE IF NOT EXISTS requests (
  cluster $name NOT NULL,
  request_id $name NOT NULL,
  verb $name NOT NULL,
  digest $name NOT NULL,
  who $name NOT NULL,
  began_at $time NOT NULL,
  answer $longtext NULL,
  PRIMARY KEY (cluster, request_id)
) $options
