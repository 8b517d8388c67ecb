import type { Prisma } from '#prisma';

const rules: Prisma.ArtifactWhereInput[] = [];

/**
 * Declares which uploads a domain makes use of. An upload that no domain makes use of within a day is removed by the
 * hourly clean-up; as long as no domain declares anything, all are kept.
 */
export function claim(files: Prisma.ArtifactWhereInput): void {
  rules.push(files);
}

/** Uploads that have arrived, and that nothing makes use of; null: nobody knows. What a run has made is none. */
export const unclaimed = (before: Date): Prisma.ArtifactWhereInput | null =>
  rules.length === 0 ? null : { status: 'READY', runId: null, createdAt: { lt: before }, NOT: { OR: rules } };
