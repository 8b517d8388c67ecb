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
ALTER COLUMN "path" DROP NOT NULL,
ALTER COLUMN "start_command" DROP NOT NULL;

-- Workers of the version before read and write the columns that it had. They are kept equal for a release, and dropped
-- in the next one, with this function.
CREATE FUNCTION "release_as_before"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW."driver" <> 'PROCESS' THEN
    RETURN NEW;
  END IF;
  IF NEW."artifact" IS NULL THEN
    NEW."artifact" := jsonb_build_object('path', NEW."path", 'startCommand', NEW."start_command");
  ELSE
    NEW."path" := NEW."artifact" ->> 'path';
    NEW."start_command" := NEW."artifact" ->> 'startCommand';
  END IF;
  IF TG_OP = 'INSERT' AND NEW."instance" IS NULL
    OR TG_OP = 'UPDATE' AND NEW."instance" IS NOT DISTINCT FROM OLD."instance" THEN
    NEW."instance" := CASE WHEN NEW."pid" IS NULL OR NEW."start_time" IS NULL THEN NULL
      ELSE jsonb_build_object('pid', NEW."pid", 'startTime', NEW."start_time") END;
  ELSE
    NEW."pid" := (NEW."instance" ->> 'pid')::integer;
    NEW."start_time" := NEW."instance" ->> 'startTime';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER "release_as_before" BEFORE INSERT OR UPDATE ON "release" FOR EACH ROW EXECUTE FUNCTION "release_as_before"();
