-- Open runs of a workspace, of which there are few beside those that are over: what a quota counts.
-- Prisma's schema cannot say it and its diff does not see it, as it is partial.
CREATE INDEX "run_open_idx" ON "run"("workspace_id", "kind", "created_at") WHERE "completed_at" IS NULL;
