-- AlterTable
ALTER TABLE "extraction_job" ADD COLUMN     "cells_reserved" BIGINT NOT NULL DEFAULT 0;
