import type { Transaction } from '#kernel/db/transact.ts';
import { newId } from '#kernel/ids.ts';

/** Notes that a release serves from now on, and that what served before does not. The caller has locked the application. */
export async function beginServing(tx: Transaction, releaseId: string, deploymentId: string): Promise<void> {
  const now = new Date();
  const { applicationId, environmentVersion } = await tx.db.release.update({
    where: { id: releaseId },
    data: { status: 'ACTIVE', activatedAt: now, retiredAt: null, restarts: 0, crashLoopedAt: null },
  });
  await endServing(tx, applicationId, now);
  await tx.db.activation.create({
    data: { id: newId(), applicationId, releaseId, deploymentId, environmentVersion, activatedAt: now },
  });
}

/** Notes that nothing of the application serves. */
export async function endServing(tx: Transaction, applicationId: string, at: Date): Promise<void> {
  await tx.db.activation.updateMany({ where: { applicationId, endedAt: null }, data: { endedAt: at } });
}
