import type { User } from '#prisma';
import type { App } from '#kernel/app.ts';
import { hashToken, newToken } from '#kernel/crypto.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { newId } from '#kernel/ids.ts';
import { defineRetention } from '#kernel/jobs/retention.ts';
import { TokenRefused } from '../errors.ts';

export type Purpose = 'VERIFY' | 'CHANGE' | 'RESET';

const validS: Readonly<Record<Purpose, number>> = { VERIFY: 24 * 3600, CHANGE: 24 * 3600, RESET: 3600 };

/** A new secret for a mail; the person's older one of the same purpose dies. */
export async function issueToken(
  tx: Transaction,
  of: { readonly userId: string; readonly purpose: Purpose; readonly email: string },
): Promise<string> {
  const { token, hash } = newToken();
  const { userId, purpose } = of;
  const fresh = {
    tokenHash: hash,
    email: of.email,
    expiresAt: new Date(Date.now() + validS[purpose] * 1000),
    createdAt: new Date(),
  };
  await tx.db.mailToken.upsert({
    where: { userId_purpose: { userId, purpose } },
    create: { id: newId(), userId, purpose, ...fresh },
    update: fresh,
  });
  return token;
}

/** What a token is good for, and whose it is. */
export interface TokenUse {
  readonly userId: string;
  readonly purpose: Purpose;
  readonly email: string;
}

/** Looks whose a token is, without using it up. @throws {TokenRefused} */
export async function findToken(
  app: App,
  token: string,
  purposes: readonly Purpose[],
): Promise<{ readonly userId: string; readonly user: User }> {
  const found = await app.db.mailToken.findUnique({
    where: { tokenHash: hashToken(token), purpose: { in: [...purposes] }, expiresAt: { gt: new Date() } },
    include: { user: true },
  });
  if (!found || found.user.closedAt) throw new TokenRefused();
  return found;
}

/**
 * Uses a token up. Of two that try at once, one gets it.
 * @throws {TokenRefused}
 */
export async function takeToken(tx: Transaction, token: string, purposes: readonly Purpose[]): Promise<TokenUse> {
  const [found] = await tx.db.$queryRaw<{ user_id: string; purpose: Purpose; email: string }[]>`
    delete from mail_token t using app_user u
    where t.token_hash = ${hashToken(token)} and t.purpose = any(${purposes}::text[]) and t.expires_at > now()
      and u.id = t.user_id and u.closed_at is null
    returning t.user_id, t.purpose, t.email`;
  if (!found) throw new TokenRefused();
  return { userId: found.user_id, purpose: found.purpose, email: found.email };
}

/** Removes secrets that are not good any more. */
defineRetention({
  name: 'identity.cleanUp',
  cron: '27 * * * *',
  async remove(app) {
    const { count: tokens } = await app.db.mailToken.deleteMany({ where: { expiresAt: { lt: new Date() } } });
    return { tokens };
  },
});
