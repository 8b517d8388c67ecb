-- How severe a line is, as far as it tells: the severities of syslog, 3 error, 4 warning, 6 informational, 7 debug.
-- Null in lines that were there before, and in those of a program of the version before.
ALTER TABLE "log_line" ADD COLUMN "level" SMALLINT;
