import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { Sessions, type SignedIn } from '#kernel/auth/sessions.ts';
import { hashPassword, needsRehash, verifyPassword } from '#kernel/crypto.ts';
import { Conflict } from '#kernel/errors.ts';
import { newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { SignInRefused } from '../errors.ts';
import { SignIn, SignUp } from '../model.ts';
import { can } from '../policy.ts';
import { isTaken } from './shared.ts';

/** People and their ways in. */
export const Accounts = service('accounts', (app) => ({
  /**
   * Registers a person and signs them in.
   * @throws {ValidationError} {Conflict} when the address is taken
   */
  async signUp(actor: Actor, raw: unknown): Promise<SignedIn> {
    const input = parse(SignUp, raw);
    authorize(actor, can.signUp, null);
    const passwordHash = await hashPassword(input.password);
    try {
      return await app.transact(actor, async (tx) => {
        const { id: userId } = await tx.db.user.create({
          data: { id: newId(), email: input.email, name: input.name, passwordHash },
        });
        return app.use(Sessions).open(tx, { userId, method: 'PASSWORD', origin: actor.origin });
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict('There is an account with this e-mail address already.');
      throw error;
    }
  },

  /** @throws {ValidationError} {SignInRefused} */
  async signIn(actor: Actor, raw: unknown): Promise<SignedIn> {
    const input = parse(SignIn, raw);
    authorize(actor, can.signIn, null);
    const user = await app.db.user.findUnique({ where: { email: input.email } });
    const good = await verifyPassword(user?.passwordHash ?? null, input.password);
    if (!user?.passwordHash || !good || user.closedAt) throw new SignInRefused();
    if (needsRehash(user.passwordHash)) {
      await app.db.user.update({
        where: { id: user.id },
        data: { passwordHash: await hashPassword(input.password) },
      });
    }
    const { id: userId } = user;
    return app.transact(actor, (tx) =>
      app.use(Sessions).open(tx, { userId, method: 'PASSWORD', origin: actor.origin }),
    );
  },

  /** A new session in place of the actor's. @throws {Unauthenticated} {Forbidden} */
  async refreshSession(actor: Actor): Promise<SignedIn> {
    authorize(actor, can.refreshSession, null);
    return app.use(Sessions).rotate(actor);
  },

  /** Ends the actor's own session, if they have one. */
  async signOut(actor: Actor): Promise<void> {
    const { kind, userId, credentialId } = actor;
    if (kind !== 'SESSION' || !userId || !credentialId) return;
    await app.transact(actor, (tx) => app.use(Sessions).end(tx, userId, credentialId));
  },

  /** Ends every session of the actor, on every device, open streams included. @throws {Unauthenticated} {Forbidden} */
  async signOutEverywhere(actor: Actor): Promise<void> {
    authorize(actor, can.signOutEverywhere, null);
    const userId = actor.userId as string;
    await app.transact(actor, (tx) => app.use(Sessions).endAll(tx, userId));
  },
}));
