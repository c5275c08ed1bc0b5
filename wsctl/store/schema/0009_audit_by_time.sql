-- For the newest rows, and those since a moment.
CREATE INDEX audit_by_time ON audit (cluster, at)
