-- Few runs have a parent or are a retry. All others need no entries here: each change of a run's status or lease writes
-- an entry into every index that has it. Prisma's schema cannot say it and its diff does not see it, as they are partial.
DROP INDEX "run_retry_of_id_idx";
DROP INDEX "run_parent_id_idx";
CREATE INDEX "run_retry_of_id_idx" ON "run"("retry_of_id") WHERE "retry_of_id" IS NOT NULL;
CREATE INDEX "run_parent_id_idx" ON "run"("parent_id") WHERE "parent_id" IS NOT NULL;
