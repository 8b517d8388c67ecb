import type { App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { hashToken, newToken } from '#kernel/crypto.ts';
import type { Appended } from '#kernel/db/transact.ts';
import { AccountSettings } from '../settings.ts';

/** A deletion that was asked for. */
export interface Requested {
  /** Tells whoever has it how the deletion goes. */
  readonly receipt: string;
  /** The event that the run was made with, in the log of the instance; null for a repeat. */
  readonly event: Appended | null;
}

/**
 * A receipt, which is kept as a hash only. Of a request with an idempotency key it is derived from what was asked for, so
 * that a repeat gets the same one; it differs once SWITCHYARD_SESSION_SECRET was changed in between.
 */
export function receiptFor(
  app: App,
  actor: Actor,
  of: { readonly mutation: string; readonly subject: string; readonly key: string | null | undefined },
): ReturnType<typeof newToken> {
  const { mutation, subject, key } = of;
  if (key == null) return newToken();
  const token = app.use(AccountSettings).receiptOf(mutation, actor.userId ?? '', subject, key);
  return { token, hash: hashToken(token) };
}
