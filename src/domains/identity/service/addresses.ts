import type { User } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorize } from '#kernel/auth/policy.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { Conflict } from '#kernel/errors.ts';
import { parse } from '#kernel/input.ts';
import { Mail } from '#kernel/mail/mail.ts';
import { MailNotConfigured, Transport } from '#kernel/mail/transport.ts';
import { TokenRefused } from '../errors.ts';
import { userEmailChanged, userEmailVerified } from '../events.ts';
import { emailChangeAskedMail, emailChangedMail, emailChangeMail, verificationMail, type MailText } from '../mails.ts';
import { EmailChange, Verification } from '../model.ts';
import { can } from '../policy.ts';
import { AccountSettings } from '../settings.ts';
import { findToken, issueToken, takeToken } from './mail-tokens.ts';
import { holdProof, reauthenticate } from './reauthentication.ts';
import { isTaken } from './shared.ts';
import { throttleMail, throttleToken } from './throttling.ts';

/** Whether this server has a way to send mail. */
export const canMail = (app: App): boolean => app.use(Transport).mode !== 'refuses';

/** @throws {MailNotConfigured} before anything is done for a mail that could not leave */
export function requireMail(app: App): void {
  if (!canMail(app)) throw new MailNotConfigured();
}

/** A mail that tells of something and is not needed for it: without a way to send mail there is none. */
export async function notify(app: App, tx: Transaction, to: string, mail: MailText): Promise<void> {
  if (canMail(app)) await app.use(Mail).send(tx, { to, ...mail });
}

/** Mails the link that verifies somebody's address. */
export async function mailVerification(
  app: App,
  tx: Transaction,
  { id: userId, email }: Pick<User, 'id' | 'email'>,
): Promise<void> {
  const token = await issueToken(tx, { userId, purpose: 'VERIFY', email });
  const appUrl = app.use(AccountSettings).appUrl();
  await app.use(Mail).send(tx, { to: email, ...verificationMail({ appUrl, token }) });
}

/** Who holds the secret of a mail is its addressee, whether they are signed in or not. */
export const byMail = (actor: Actor, userId: string): Actor =>
  actor.userId === userId ? actor : { ...actor, kind: 'ANONYMOUS', userId, credentialId: null };

/** People's e-mail addresses. */
export const Addresses = service('addresses', (app) => ({
  /**
   * Verifies the address that a link was mailed to; where that is the new address of a change, it takes effect.
   * @throws {ValidationError} {RateLimited} {TokenRefused} {Conflict} when somebody else has the new address meanwhile
   */
  async verifyEmail(actor: Actor, raw: unknown): Promise<void> {
    const { token } = parse(Verification, raw);
    authorize(actor, can.verifyEmail, null);
    await throttleToken(app, actor);
    const { userId } = await findToken(app, token, ['VERIFY', 'CHANGE']);
    try {
      await app.transact(byMail(actor, userId), async (tx) => {
        const { purpose, email } = await takeToken(tx, token, ['VERIFY', 'CHANGE']);
        await tx.db.$queryRaw`select 1 from app_user where id = ${userId}::uuid for update`;
        const user = await tx.db.user.findUniqueOrThrow({ where: { id: userId } });
        const event = { workspaceId: instanceWorkspaceId, subjectId: userId };
        if (purpose === 'VERIFY') {
          // Their address is another one by now.
          if (user.email !== email) throw new TokenRefused();
          if (user.emailVerifiedAt) return;
          await tx.db.user.update({ where: { id: userId }, data: { emailVerifiedAt: new Date() } });
          tx.append({ type: userEmailVerified, ...event });
          return;
        }
        await tx.db.user.update({ where: { id: userId }, data: { email, emailVerifiedAt: new Date() } });
        // Whoever reads the old address gets in by it no more.
        await tx.db.mailToken.deleteMany({ where: { userId } });
        tx.append({ type: userEmailChanged, ...event, data: { userId: event.subjectId } });
        await notify(app, tx, user.email, emailChangedMail({ name: user.name, newEmail: email }));
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict('There is an account with this e-mail address already.');
      throw error;
    }
  },

  /**
   * Mails a new link, unless the address is verified already.
   * @throws {Unauthenticated} {Forbidden} {RateLimited} {MailNotConfigured}
   */
  async resendVerification(actor: Actor): Promise<void> {
    authorize(actor, can.resendVerification, null);
    requireMail(app);
    const userId = actor.userId as string;
    await throttleMail(app, userId);
    await app.transact(actor, async (tx) => {
      const user = await tx.db.user.findUniqueOrThrow({ where: { id: userId } });
      if (!user.emailVerifiedAt) await mailVerification(app, tx, user);
    });
  },

  /**
   * Mails a link to a new address, which takes effect when it is followed.
   * @throws {ValidationError} {Unauthenticated} {Forbidden} {ReauthenticationRequired} {RateLimited}
   *   {MailNotConfigured} {Conflict} when somebody has the address
   */
  async changeEmail(actor: Actor, raw: unknown): Promise<void> {
    const { newEmail, password } = parse(EmailChange, raw);
    authorize(actor, can.changeEmail, null);
    requireMail(app);
    const proved = await reauthenticate(app, actor, password);
    const { id: userId, name, email } = proved;
    await throttleMail(app, userId);
    if (await app.db.user.findUnique({ where: { email: newEmail }, select: { id: true } })) {
      throw new Conflict('There is an account with this e-mail address already.');
    }
    const appUrl = app.use(AccountSettings).appUrl();
    await app.transact(actor, async (tx) => {
      await holdProof(tx, actor, proved);
      const token = await issueToken(tx, { userId, purpose: 'CHANGE', email: newEmail });
      await app.use(Mail).send(tx, { to: newEmail, ...emailChangeMail({ appUrl, token }) });
      await notify(app, tx, email, emailChangeAskedMail({ name, newEmail }));
    });
  },
}));
