-- A deployment with one work queue and one with the most.
INSERT INTO queue_prefixes (prefix, partitions) VALUES ('earmark', 1), ('wide', 64);
