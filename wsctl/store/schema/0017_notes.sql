-- Small things to remember: who is kept until when, which notices were given, how far a log was read.
CREATE TABLE IF NOT EXISTS notes (
  cluster $name NOT NULL,
  topic $name NOT NULL,
  subject $name NOT NULL,
  value $text NOT NULL,
  noted_at $time NOT NULL,
  PRIMARY KEY (cluster, topic, subject)
) $options
