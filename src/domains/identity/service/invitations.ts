import type { Invitation, Role } from '#prisma';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import { hashToken, newToken } from '#kernel/crypto.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { NotFound, Unauthenticated } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineRetention } from '#kernel/jobs/retention.ts';
import { Mail } from '#kernel/mail/mail.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import { AlreadyMember, InvitationExpired, InvitationForSomebodyElse, InvitationInvalid } from '../errors.ts';
import { invitationAccepted, invitationDeclined, invitationRevoked, memberInvited } from '../events.ts';
import { invitationMail } from '../mails.ts';
import { NewInvitation, Token } from '../model.ts';
import { can } from '../policy.ts';
import { AccountSettings } from '../settings.ts';
import { addMember, lockWorkspace, mayGive, mayGiveNow, mayInvite, type Written } from './shared.ts';

/** How long an invitation can be accepted, days. */
const ttlDays = 7;
/** Expired ones are listed for so long, so that they can be sent again, days. */
const keepDays = 30;
const dayMs = 24 * 3600 * 1000;

const byWorkspace = defineThrottle({
  name: 'identity.invitationsOfWorkspace',
  verbs: ['identity.inviteMember', 'identity.resendInvitation'],
  description: 'Invitations that a workspace sends, by workspace.',
  points: 500,
  durationS: 24 * 3600,
});
const byPerson = defineThrottle({
  name: 'identity.invitationsByPerson',
  verbs: ['identity.inviteMember', 'identity.resendInvitation'],
  description: 'Invitations that somebody sends, by person.',
  points: 200,
  durationS: 3600,
});
const toAddress = defineThrottle({
  name: 'identity.invitationsToAddress',
  verbs: ['identity.inviteMember', 'identity.resendInvitation'],
  description: 'Invitations to one address, by workspace and address.',
  points: 5,
  durationS: 3600,
});

/** Removes invitations that expired long ago. */
defineRetention({
  name: 'identity.cleanUpInvitations',
  cron: '27 3 * * *',
  async remove(app) {
    const before = new Date(Date.now() - keepDays * dayMs);
    const { count: invitations } = await app.db.invitation.deleteMany({ where: { expiresAt: { lt: before } } });
    return { invitations };
  },
});

/** What somebody who has the token may know. */
export interface InvitationPreview {
  readonly workspaceName: string;
  readonly email: string;
  readonly role: Role;
  readonly expiresAt: Date;
}

/** How people become members: they are asked by mail, and agree. The only writer of `invitation`, beside the end of its maker's right. */
export const Invitations = service('invitations', (app) => {
  /** @throws {RateLimited} */
  const throttle = async (actor: Actor, workspaceId: string, email: string): Promise<void> => {
    const throttles = app.use(Throttles);
    await throttles.consume(toAddress, `${workspaceId} ${email}`);
    await throttles.consume(byPerson, String(actor.userId));
    await throttles.consume(byWorkspace, workspaceId);
  };

  /** Gives an invitation, new or not, a new token, and sends it. */
  const sendTo = async (
    tx: Transaction,
    { id, workspaceId, email, role }: Pick<Invitation, 'id' | 'workspaceId' | 'email' | 'role'>,
  ): Promise<Written> => {
    const { token, hash } = newToken();
    const fresh = {
      role,
      invitedById: tx.actor.userId as string,
      tokenHash: hash,
      expiresAt: new Date(Date.now() + ttlDays * dayMs),
    };
    await tx.db.invitation.upsert({ where: { id }, create: { id, workspaceId, email, ...fresh }, update: fresh });
    const { name } = await tx.db.workspace.findUniqueOrThrow({ where: { id: workspaceId }, select: { name: true } });
    const inviter = await tx.db.user.findUniqueOrThrow({
      where: { id: fresh.invitedById },
      select: { name: true, email: true },
    });
    const { appUrl } = app.use(AccountSettings);
    const { expiresAt } = fresh;
    const mail = invitationMail({ appUrl: appUrl(), workspace: name, inviter, email, role, token, expiresAt });
    await app.use(Mail).send(tx, { to: email, ...mail });
    const event = tx.append({ type: memberInvited, workspaceId, subjectId: id, data: { role } });
    return { id, workspaceId, event };
  };

  /** The invitation of a token, its workspace locked. @throws {InvitationInvalid} */
  const lock = async (tx: Transaction, tokenHash: string): Promise<Invitation> => {
    const where = { tokenHash };
    const found = await tx.db.invitation.findUnique({ where, select: { workspaceId: true } });
    if (!found || !(await lockWorkspace(tx, found.workspaceId))) throw new InvitationInvalid();
    // As it is now that nobody else answers it, or takes it back.
    const invitation = await tx.db.invitation.findUnique({ where });
    if (!invitation) throw new InvitationInvalid();
    return invitation;
  };

  const findFor = async (tx: Transaction, id: string): Promise<Invitation | null> => {
    const found = isId(id) ? await tx.db.invitation.findUnique({ where: { id }, select: { workspaceId: true } }) : null;
    if (!found || !(await lockWorkspace(tx, found.workspaceId))) return null;
    return tx.db.invitation.findUnique({ where: { id } });
  };

  return {
    /**
     * Asks somebody by mail to become a member. The answer does not tell whether there is an account of that address. An
     * address that was asked already is asked anew: the older token is void.
     * @throws {ValidationError} {NotFound} {Forbidden} {AlreadyMember} {RateLimited} {MailNotConfigured}
     */
    async inviteMember(actor: Actor, raw: unknown): Promise<Written> {
      const { workspaceId, email, role } = parse(NewInvitation, raw);
      authorize(actor, can.inviteMember, workspaceId);
      mayGive(actor, workspaceId, role);
      await throttle(actor, workspaceId, email);
      return app.transact(actor, async (tx) => {
        if (!(await lockWorkspace(tx, workspaceId))) throw new NotFound('Workspace', workspaceId);
        // That is no secret: who may invite sees who is there.
        if ((await tx.db.membership.count({ where: { workspaceId, user: { email } } })) > 0) throw new AlreadyMember();
        const open = await tx.db.invitation.findUnique({ where: { workspaceId_email: { workspaceId, email } } });
        await mayGiveNow(tx, actor, can.inviteMember, workspaceId, role, ...(open ? [open.role] : []));
        return sendTo(tx, { id: open?.id ?? newId(), workspaceId, email, role });
      });
    },

    /** Sends an invitation again, with a new token; the older one is void. @throws {NotFound} {Forbidden} {RateLimited} */
    async resendInvitation(actor: Actor, id: string): Promise<Written> {
      const asked = isId(id) ? await app.db.invitation.findUnique({ where: { id } }) : null;
      authorizeRow(actor, can.resendInvitation, asked, 'Invitation', id);
      mayGive(actor, asked.workspaceId, asked.role);
      await throttle(actor, asked.workspaceId, asked.email);
      return app.transact(actor, async (tx) => {
        const invitation = await findFor(tx, id);
        authorizeRow(actor, can.resendInvitation, invitation, 'Invitation', id);
        mayGive(actor, invitation.workspaceId, invitation.role);
        return sendTo(tx, invitation);
      });
    },

    /** Takes an invitation back. @throws {NotFound} {Forbidden} */
    async revokeInvitation(actor: Actor, id: string): Promise<Written> {
      return app.transact(actor, async (tx) => {
        const invitation = await findFor(tx, id);
        authorizeRow(actor, can.revokeInvitation, invitation, 'Invitation', id);
        mayGive(actor, invitation.workspaceId, invitation.role);
        await tx.db.invitation.delete({ where: { id } });
        const { workspaceId } = invitation;
        const event = tx.append({ type: invitationRevoked, workspaceId, subjectId: id });
        return { id, workspaceId, event };
      });
    },

    /** What a token is for; null for one that is not good, or no longer. */
    async preview(token: string): Promise<InvitationPreview | null> {
      const parsed = Token.safeParse(token);
      if (!parsed.success) return null;
      const found = await app.db.invitation.findUnique({
        where: { tokenHash: hashToken(parsed.data), expiresAt: { gt: new Date() }, workspace: { deletedAt: null } },
        include: { workspace: { select: { name: true } } },
      });
      if (!found || !(await inviterMayGive(app.db, found))) return null;
      const { workspace, email, role, expiresAt } = found;
      return { workspaceName: workspace.name, email, role, expiresAt };
    },

    /**
     * Makes the actor, whose address it was sent to, a member; it also proves that they read mail there.
     * @throws {Unauthenticated} {Forbidden} {InvitationInvalid} {InvitationExpired} {InvitationForSomebodyElse} {AlreadyMember}
     */
    async acceptInvitation(actor: Actor, token: string): Promise<Written & { readonly role: Role }> {
      authorize(actor, can.acceptInvitation, null);
      const tokenHash = hashToken(parse(Token, token));
      const userId = actor.userId as string;
      return app.transact(actor, async (tx) => {
        const invitation = await lock(tx, tokenHash);
        const { id, workspaceId, role } = invitation;
        if (invitation.expiresAt <= new Date()) throw new InvitationExpired(invitation.expiresAt);
        // Their right may have ended in a way that did not take the invitation along.
        if (!(await inviterMayGive(tx.db, invitation))) throw new InvitationInvalid();
        const user = await tx.db.user.findUnique({ where: { id: userId } });
        if (!user || user.closedAt) throw new Unauthenticated();
        if (user.email !== invitation.email) throw new InvitationForSomebodyElse();
        const belongs = await tx.db.membership.count({ where: { workspaceId, userId } });
        if (belongs > 0) throw new AlreadyMember();
        await tx.db.invitation.delete({ where: { id } });
        if (!user.emailVerifiedAt) {
          // Only of the address that was proved: it may be changing just now.
          await tx.db.user.updateMany({
            where: { id: userId, email: invitation.email },
            data: { emailVerifiedAt: new Date() },
          });
        }
        const member = await addMember(tx, workspaceId, userId, role);
        const data = { userId, membershipId: member.id };
        tx.append({ type: invitationAccepted, workspaceId, subjectId: id, data });
        return { ...member, role };
      });
    },

    /** Says no to an invitation, which ends it. @throws {InvitationInvalid} */
    async declineInvitation(actor: Actor, token: string): Promise<void> {
      authorize(actor, can.declineInvitation, null);
      const tokenHash = hashToken(parse(Token, token));
      await app.transact(actor, async (tx) => {
        const { id, workspaceId } = await lock(tx, tokenHash);
        await tx.db.invitation.delete({ where: { id } });
        tx.append({ type: invitationDeclined, workspaceId, subjectId: id });
      });
    },
  };
});

/** Whether who sent an invitation may still give that role. */
async function inviterMayGive(
  db: Pick<Transaction['db'], 'membership'>,
  { workspaceId, invitedById: userId, role }: Invitation,
): Promise<boolean> {
  const own = await db.membership.findUnique({ where: { workspaceId_userId: { workspaceId, userId } } });
  return mayInvite(own?.role, role);
}
