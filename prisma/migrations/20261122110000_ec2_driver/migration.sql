-- AlterEnum
ALTER TYPE "driver" ADD VALUE 'EC2';

-- AlterTable
ALTER TABLE "release" ADD COLUMN     "instance_host" VARCHAR(15);
