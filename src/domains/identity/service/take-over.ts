import type { User } from '#prisma';
import type { App } from '#kernel/app.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { Sessions } from '#kernel/auth/sessions.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { userEmailVerified, userTakenOver } from '../events.ts';
import { revokeKeys } from './shared.ts';

/**
 * Gives an account whose address was never proved to whoever has proved it now. Its maker never did, and may be a
 * stranger who waited for this: nothing that they set up lets anybody in afterwards.
 * @param then the password, if the new owner has set one, and the name that they go by
 * @see https://arxiv.org/abs/2205.10174 Pre-hijacked accounts
 */
export async function takeOver(
  app: App,
  tx: Transaction,
  { id: userId }: User,
  then: { readonly passwordHash: string | null; readonly name?: string },
): Promise<void> {
  await tx.db.user.update({ where: { id: userId }, data: { ...then, emailVerifiedAt: new Date() } });
  await tx.db.externalIdentity.deleteMany({ where: { userId } });
  await tx.db.mailToken.deleteMany({ where: { userId } });
  await revokeKeys(tx, { createdById: userId });
  await app.use(Sessions).endAll(tx, userId);
  const event = { workspaceId: instanceWorkspaceId, subjectId: userId };
  tx.append({ type: userTakenOver, ...event });
  tx.append({ type: userEmailVerified, ...event });
}
