-- For the rows of one request.
CREATE INDEX audit_by_request ON audit (cluster, request_id)
