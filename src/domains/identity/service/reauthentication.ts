import type { User } from '#prisma';
import type { App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { verifyPassword } from '#kernel/crypto.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { ReauthenticationRequired } from '../errors.ts';
import { throttleProof } from './throttling.ts';

/** How young a sign-in must be that stands for a password, seconds. */
const freshS = 600;

/**
 * The person, once they have proved anew who they are: by their password, or, if they have none, by a session that they
 * signed in for within the last ten minutes. A token of another issuer does not tell when they signed in.
 * @throws {ReauthenticationRequired} {RateLimited}
 */
export async function reauthenticate(app: App, actor: Actor, password: string | null | undefined): Promise<User> {
  const user = await app.db.user.findUniqueOrThrow({ where: { id: actor.userId as string } });
  const { passwordHash } = user;
  if (passwordHash !== null) {
    if (!password || !(await throttleProof(app, user.id, () => verifyPassword(passwordHash, password)))) {
      throw new ReauthenticationRequired('PASSWORD');
    }
    return user;
  }
  const session =
    actor.kind === 'SESSION' && actor.credentialId
      ? await app.db.session.findUnique({
          where: { id: actor.credentialId, endedAt: null, expiresAt: { gt: new Date() } },
          select: { signedInAt: true },
        })
      : null;
  if (!session || Date.now() - session.signedInAt.getTime() > freshS * 1000) {
    throw new ReauthenticationRequired('SIGN_IN');
  }
  return user;
}

/**
 * Locks the person, if what they proved still holds: the same password, an account that is open, and a session that has
 * not ended. Between the proof and what it was for, somebody may have taken it away.
 * @throws {ReauthenticationRequired}
 */
export async function holdProof(tx: Transaction, actor: Actor, proved: User): Promise<void> {
  const { id, passwordHash } = proved;
  const [still] = await tx.db.$queryRaw<{ password_hash: string | null }[]>`
    select password_hash from app_user where id = ${id}::uuid and closed_at is null for no key update`;
  const session =
    actor.kind !== 'SESSION' ||
    (await tx.db.session.count({
      where: { id: actor.credentialId ?? '', endedAt: null, expiresAt: { gt: new Date() } },
    })) > 0;
  if (!still || still.password_hash !== passwordHash || !session)
    throw new ReauthenticationRequired(passwordHash === null ? 'SIGN_IN' : 'PASSWORD');
}
