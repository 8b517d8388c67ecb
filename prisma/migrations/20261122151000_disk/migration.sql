-- AlterTable
ALTER TABLE "workspace_quota" ADD COLUMN     "max_disk_mb" INTEGER;

-- CreateTable
CREATE TABLE "application_disk" (
    "application_id" UUID NOT NULL,
    "bytes" BIGINT NOT NULL,
    "measured_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "application_disk_pkey" PRIMARY KEY ("application_id")
);

-- AddForeignKey
ALTER TABLE "application_disk" ADD CONSTRAINT "application_disk_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;
