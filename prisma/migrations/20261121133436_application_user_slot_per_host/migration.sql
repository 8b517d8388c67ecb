-- AlterTable
ALTER TABLE "application" ADD COLUMN     "address_run_id" UUID,
ADD COLUMN     "port_asked" BOOLEAN NOT NULL DEFAULT false,
ALTER COLUMN "user_slot" DROP NOT NULL,
ALTER COLUMN "user_slot" DROP DEFAULT;
DROP SEQUENCE "application_user_slot_seq";

-- AlterTable
ALTER TABLE "release" ADD COLUMN     "instance_uid" INTEGER;

-- A port that a row has already is kept as if it had been asked for; who is on no host needs no user of one.
UPDATE "application" SET "port_asked" = true WHERE "port" IS NOT NULL;
UPDATE "application" SET "user_slot" = NULL WHERE "host_id" IS NULL;

-- CreateIndex
CREATE UNIQUE INDEX "application_host_id_user_slot_key" ON "application"("host_id", "user_slot");
