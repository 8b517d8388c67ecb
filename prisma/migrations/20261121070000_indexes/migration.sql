-- CreateIndex
CREATE INDEX "event_workspace_id_actor_id_seq_idx" ON "event"("workspace_id", "actor_id", "seq");

-- CreateIndex
CREATE INDEX "event_at_idx" ON "event" USING BRIN ("at");

-- CreateIndex
CREATE INDEX "artifact_created_by_id_idx" ON "artifact"("created_by_id");

-- CreateIndex
CREATE INDEX "invitation_email_idx" ON "invitation"("email");
