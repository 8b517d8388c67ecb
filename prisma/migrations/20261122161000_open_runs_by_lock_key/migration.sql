-- Open runs with one lock key: those that are over, which are nearly all of them, need no entries. Prisma's schema cannot
-- say it and its diff does not see it, as it is partial. Its condition is in words of its own: a query that says them can use
-- no other index of open runs, which would be thought as good for as long as there were none.
DROP INDEX "run_lock_key_status_created_at_idx";
CREATE INDEX "run_open_lock_key_idx" ON "run"("lock_key", "attempt", "created_at", "id") WHERE coalesce("completed_at", 'infinity'::timestamptz) = 'infinity'::timestamptz;
