import { service } from '#kernel/app.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { Sessions, type SignedIn } from '#kernel/auth/sessions.ts';
import { hashPassword, needsRehash, verifyPassword } from '#kernel/crypto.ts';
import { Conflict, NotFound, RateLimited } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { SignInRefused } from '../errors.ts';
import { userSignedUp } from '../events.ts';
import { SignIn, SignUp } from '../model.ts';
import { Passwords } from '../passwords.ts';
import { can } from '../policy.ts';
import { AccountSettings } from '../settings.ts';
import { canMail, mailVerification } from './addresses.ts';
import { isTaken } from './shared.ts';
import { beginSignIn, signInSucceeded, throttleSignUp } from './throttling.ts';

/** People and their ways in. */
export const Accounts = service('accounts', (app) => ({
  /**
   * Registers a person, signs them in, and mails them a link that verifies their address. It does tell that an address
   * is taken, as every sign-up without a mail in between must; the throttle makes that slow to ask.
   * @throws {ValidationError} {RateLimited} {Conflict} when the address is taken
   */
  async signUp(actor: Actor, raw: unknown): Promise<SignedIn> {
    const input = parse(SignUp, raw);
    authorize(actor, can.signUp, null);
    const { signUpsPerHour, passwordMemoryKib } = app.use(AccountSettings);
    await throttleSignUp(app, actor, signUpsPerHour);
    await app.use(Passwords).check(input.password, [input.email, input.name], 'password');
    const passwordHash = await hashPassword(input.password, passwordMemoryKib);
    const userId = newId();
    try {
      return await app.transact(asPerson(actor, userId), async (tx) => {
        const user = await tx.db.user.create({
          data: { id: userId, email: input.email, name: input.name, passwordHash },
        });
        tx.append({ type: userSignedUp, workspaceId: instanceWorkspaceId, subjectId: userId });
        // Without mail they get in all the same, unverified.
        if (canMail(app)) await mailVerification(app, tx, user);
        return app.use(Sessions).open(tx, { userId, method: 'PASSWORD', origin: actor.origin });
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict('There is an account with this e-mail address already.');
      throw error;
    }
  },

  /** @throws {ValidationError} {RateLimited} {SignInRefused} */
  async signIn(actor: Actor, raw: unknown): Promise<SignedIn> {
    const input = parse(SignIn, raw);
    authorize(actor, can.signIn, null);
    try {
      await beginSignIn(app, actor, input.email);
    } catch (error) {
      if (error instanceof RateLimited) app.use(Denials).signIn(actor, 'PASSWORD', error.code);
      throw error;
    }
    const user = await app.db.user.findUnique({ where: { email: input.email } });
    const { passwordMemoryKib } = app.use(AccountSettings);
    const good = await verifyPassword(user?.passwordHash ?? null, input.password, passwordMemoryKib);
    if (!user?.passwordHash || !good || user.closedAt) {
      const refused = new SignInRefused();
      app.use(Denials).signIn(actor, 'PASSWORD', refused.code, user?.id ?? null);
      throw refused;
    }
    await signInSucceeded(app, actor, input.email);
    const { id: userId, passwordHash } = user;
    const better = needsRehash(passwordHash, passwordMemoryKib)
      ? await hashPassword(input.password, passwordMemoryKib)
      : passwordHash;
    return app.transact(asPerson(actor, userId), async (tx) => {
      // The account is locked with it. The password that was good may have been changed since, and the account closed.
      const { count } = await tx.db.user.updateMany({
        where: { id: userId, passwordHash, closedAt: null },
        data: { passwordHash: better },
      });
      if (count === 0) throw new SignInRefused();
      return app.use(Sessions).open(tx, { userId, method: 'PASSWORD', origin: actor.origin });
    });
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
    await app.transact(actor, async (tx) => {
      await app.use(Sessions).endAll(tx, userId);
      // Nor does a change of address that was asked for from one of them go on.
      await tx.db.mailToken.deleteMany({ where: { userId, purpose: 'CHANGE' } });
    });
  },

  /** Ends one session of the actor. @throws {Unauthenticated} {Forbidden} {NotFound} also when it has ended */
  async endSession(actor: Actor, id: string): Promise<void> {
    authorize(actor, can.endSession, null);
    const userId = actor.userId as string;
    const ended = isId(id) && (await app.transact(actor, (tx) => app.use(Sessions).end(tx, userId, id)));
    if (!ended) throw new NotFound('Session', id);
  },
}));

/** Whoever has proved who they are does the rest as that person: where they came from is theirs, and goes with them. */
const asPerson = (actor: Actor, userId: string): Actor => ({ ...actor, kind: 'SESSION', userId, credentialId: null });
