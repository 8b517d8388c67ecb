-- Open runs with one lock key: those that are over, which are nearly all of them, need no entries. Prisma's schema cannot
-- say it and its diff does not see it, as it is partial.
DROP INDEX "run_lock_key_status_created_at_idx";
CREATE INDEX "run_open_lock_key_idx" ON "run"("lock_key", "attempt", "created_at", "id") WHERE "completed_at" IS NULL;
