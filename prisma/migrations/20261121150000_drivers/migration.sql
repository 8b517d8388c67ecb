-- CreateEnum
CREATE TYPE "driver" AS ENUM ('PROCESS', 'DOCKER');

-- AlterTable
ALTER TABLE "application" ADD COLUMN     "driver" "driver",
ADD COLUMN     "memory_mb" INTEGER,
ADD COLUMN     "milli_cpus" INTEGER;

-- AlterTable
ALTER TABLE "host" ADD COLUMN     "drivers" TEXT[] DEFAULT ARRAY[]::TEXT[];

-- AlterTable
ALTER TABLE "release" ADD COLUMN     "driver" "driver" NOT NULL DEFAULT 'PROCESS',
ADD COLUMN     "artifact" JSONB,
ADD COLUMN     "image_id" VARCHAR(100),
ADD COLUMN     "instance" JSONB;

-- What there is was made by the process driver: it serves on, and can be restored.
UPDATE "application" SET "driver" = 'PROCESS' WHERE "host_id" IS NOT NULL;
UPDATE "release" SET
  "artifact" = jsonb_build_object('path', "path", 'startCommand', "start_command"),
  "instance" = CASE WHEN "pid" IS NULL OR "start_time" IS NULL THEN NULL
    ELSE jsonb_build_object('pid', "pid", 'startTime', "start_time") END;

-- AlterTable
ALTER TABLE "release" ALTER COLUMN "artifact" SET NOT NULL,
DROP COLUMN "path",
DROP COLUMN "pid",
DROP COLUMN "start_command",
DROP COLUMN "start_time";
