-- AlterTable
ALTER TABLE "artifact" ADD COLUMN     "completing_until" TIMESTAMPTZ(3),
ADD COLUMN     "part_size_bytes" INTEGER;

-- CreateTable
CREATE TABLE "artifact_part" (
    "artifact_id" UUID NOT NULL,
    "number" INTEGER NOT NULL,
    "key" UUID NOT NULL,
    "size_bytes" INTEGER NOT NULL,
    "sha256" CHAR(64) NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "artifact_part_pkey" PRIMARY KEY ("artifact_id","number")
);

-- CreateIndex
CREATE UNIQUE INDEX "artifact_part_key_key" ON "artifact_part"("key");

-- AddForeignKey
ALTER TABLE "artifact_part" ADD CONSTRAINT "artifact_part_artifact_id_fkey" FOREIGN KEY ("artifact_id") REFERENCES "artifact"("id") ON DELETE CASCADE ON UPDATE CASCADE;

ALTER TABLE "artifact_part" ADD CONSTRAINT "artifact_part_number" CHECK ("number" BETWEEN 1 AND 10000);

-- Open uploads, of which there are few beside what has arrived: what a quota counts and the clean-up looks for.
-- Prisma's schema cannot say it and its diff does not see it, as it is partial.
CREATE INDEX "artifact_pending_idx" ON "artifact"("workspace_id", "created_at") WHERE "status" = 'PENDING';
