import { z } from 'zod';
import { service } from '#kernel/app.ts';
import { system, type Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { Sessions } from '#kernel/auth/sessions.ts';
import { hashPassword } from '#kernel/crypto.ts';
import { newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineJob } from '#kernel/jobs/define.ts';
import { Mail } from '#kernel/mail/mail.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { NoPassword, ReauthenticationRequired, TokenRefused } from '../errors.ts';
import { userPasswordChanged } from '../events.ts';
import { passwordChangedMail, passwordResetMail } from '../mails.ts';
import { PasswordChange, PasswordReset, ResetRequest } from '../model.ts';
import { Passwords } from '../passwords.ts';
import { can } from '../policy.ts';
import { AccountSettings } from '../settings.ts';
import { byMail, notify, requireMail } from './addresses.ts';
import { findToken, issueToken, takeToken } from './mail-tokens.ts';
import { reauthenticate } from './reauthentication.ts';
import { takeOver } from './take-over.ts';
import { liftSignInLimits, throttleReset, throttleToken } from './throttling.ts';

const sealContext = (id: string): string => `job identity.sendPasswordReset:${id}`;

/** Looks whether there is an account, and mails its owner: nobody who asked can tell by the time. */
export const sendPasswordReset = defineJob({
  name: 'identity.sendPasswordReset',
  // The address is sealed: jobs are kept for a while, and no job is to hold what a deleted account must not leave.
  payload: z.object({ id: z.uuid(), email: z.string() }),
  attempts: 5,
  retryDelayS: 10,
  timeoutS: 60,
  workspaceOf: () => instanceWorkspaceId,
  async handle({ id, email: sealed }, { app }) {
    const email = await app.use(Sealing).openText(sealed, sealContext(id));
    await app.transact(system, async (tx) => {
      const user = await tx.db.user.findUnique({ where: { email } });
      if (!user || user.closedAt) return;
      const token = await issueToken(tx, { userId: user.id, purpose: 'RESET', email });
      const appUrl = app.use(AccountSettings).appUrl();
      await app.use(Mail).send(tx, { to: email, ...passwordResetMail({ appUrl, name: user.name, token }) });
    });
  },
});

/** People's passwords, and what ends with an old one. */
export const PasswordChanges = service('password changes', (app) => ({
  /**
   * Gives the actor another password, and ends every other session of theirs.
   * @throws {ValidationError} {Unauthenticated} {Forbidden} {ReauthenticationRequired} {NoPassword} {RateLimited}
   */
  async changePassword(actor: Actor, raw: unknown): Promise<void> {
    const { currentPassword, newPassword } = parse(PasswordChange, raw);
    authorize(actor, can.changePassword, null);
    const before = await app.db.user.findUniqueOrThrow({ where: { id: actor.userId as string } });
    // A session alone does not make a second way in: that takes a mail.
    if (before.passwordHash === null) throw new NoPassword();
    const user = await reauthenticate(app, actor, currentPassword);
    await app.use(Passwords).check(newPassword, [user.email, user.name], 'newPassword');
    const passwordHash = await hashPassword(newPassword, app.use(AccountSettings).passwordMemoryKib);
    await app.transact(actor, async (tx) => {
      const { count } = await tx.db.user.updateMany({
        where: { id: user.id, passwordHash: user.passwordHash },
        data: { passwordHash },
      });
      // Somebody else changed it meanwhile: what was proved is worth nothing any more.
      if (count === 0) throw new ReauthenticationRequired('PASSWORD');
      await app.use(Sessions).endAll(tx, user.id, actor.kind === 'SESSION' ? actor.credentialId : null);
      // Whoever knew the old one may have asked for links: none of them is good any more.
      await tx.db.mailToken.deleteMany({ where: { userId: user.id } });
      tx.append({
        type: userPasswordChanged,
        workspaceId: instanceWorkspaceId,
        subjectId: user.id,
        data: { by: 'PASSWORD' },
      });
      await notify(app, tx, user.email, passwordChangedMail(user));
    });
  },

  /**
   * Has a link mailed that sets a new password, if there is an account with this address. Nothing that the caller sees
   * depends on whether there is one: it is looked for in a job.
   * @throws {ValidationError} {RateLimited} {MailNotConfigured}
   */
  async requestPasswordReset(actor: Actor, raw: unknown): Promise<void> {
    const { email } = parse(ResetRequest, raw);
    authorize(actor, can.requestPasswordReset, null);
    requireMail(app);
    await throttleReset(app, actor, email);
    const id = newId();
    const sealed = await app.use(Sealing).seal(email, sealContext(id));
    await app.transact(actor, (tx) => app.jobs.enqueue(tx, sendPasswordReset, { id, email: sealed }));
  },

  /**
   * Sets a password by a link that was mailed. Ends every session; the address counts as verified. If it was not before,
   * somebody else may have made the account: then keys and other ways in end too.
   * @throws {ValidationError} {RateLimited} {TokenRefused}
   */
  async resetPassword(actor: Actor, raw: unknown): Promise<void> {
    const { token, newPassword } = parse(PasswordReset, raw);
    authorize(actor, can.resetPassword, null);
    await throttleToken(app, actor);
    // A look first: a password is weighed and hashed for those only who have a link.
    const { user } = await findToken(app, token, ['RESET']);
    await app.use(Passwords).check(newPassword, [user.email, user.name], 'newPassword');
    const passwordHash = await hashPassword(newPassword, app.use(AccountSettings).passwordMemoryKib);
    await app.transact(byMail(actor, user.id), async (tx) => {
      const { userId, email } = await takeToken(tx, token, ['RESET']);
      const now = await tx.db.user.findUniqueOrThrow({ where: { id: userId } });
      if (now.email !== email) throw new TokenRefused();
      if (now.emailVerifiedAt) {
        await tx.db.user.update({ where: { id: userId }, data: { passwordHash } });
        await app.use(Sessions).endAll(tx, userId);
        // A change of address that somebody else asked for is none any more.
        await tx.db.mailToken.deleteMany({ where: { userId } });
      } else await takeOver(app, tx, now, { passwordHash });
      const event = { workspaceId: instanceWorkspaceId, subjectId: userId };
      tx.append({ type: userPasswordChanged, ...event, data: { by: 'RESET' } });
      await notify(app, tx, email, passwordChangedMail(now));
    });
    await liftSignInLimits(app, actor, user.email);
  },
}));
