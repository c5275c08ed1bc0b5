-- For finding those to forget.
CREATE INDEX requests_by_time ON requests (cluster, began_at)
