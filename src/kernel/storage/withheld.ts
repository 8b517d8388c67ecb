import type { Prisma } from '#prisma';
import type { App } from '../app.ts';

const rules: Prisma.ArtifactWhereInput[] = [];

/** Declares files that nobody gets an address of for as long as this holds of them: a domain knows why. */
export function withhold(files: Prisma.ArtifactWhereInput): void {
  rules.push(files);
}

/** Which of them are withheld, in one statement. */
export async function withheldOf(app: App, ids: readonly string[]): Promise<ReadonlySet<string>> {
  if (rules.length === 0) return new Set();
  const found = await app.db.artifact.findMany({ where: { id: { in: [...ids] }, OR: rules }, select: { id: true } });
  return new Set(found.map(({ id }) => id));
}
