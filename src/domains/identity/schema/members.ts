import { InvitationRef, MembershipRef, RoleEnum } from '#kernel/auth/schema.ts';
import { RateLimited } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { ErrorInterface, errorType, eventCursor, failing } from '#kernel/graphql/kit.ts';
import { MailNotConfigured } from '#kernel/mail/transport.ts';
import {
  AlreadyMember,
  InvitationExpired,
  InvitationForSomebodyElse,
  InvitationInvalid,
  LastOwner,
} from '../errors.ts';
import { can } from '../policy.ts';
import { Invitations, Members, type InvitationPreview } from '../service/index.ts';
import { workspaceId, type Written } from './shared.ts';

errorType(LastOwner, {
  name: 'LastOwner',
  description: 'A workspace must keep an owner.',
  interfaces: [ErrorInterface],
});
errorType(AlreadyMember, {
  name: 'AlreadyMember',
  description: 'They are a member already.',
  interfaces: [ErrorInterface],
});
errorType(InvitationInvalid, {
  name: 'InvitationInvalid',
  description:
    'The token is of no invitation, or of one that was answered, taken back or sent anew, or whose maker may not give that role any more.',
  interfaces: [ErrorInterface],
});
errorType(InvitationExpired, {
  name: 'InvitationExpired',
  description: 'The invitation was not accepted in time.',
  interfaces: [ErrorInterface],
  fields: (t) => ({ expiredAt: t.expose('expiredAt', { type: 'DateTime', description: 'Since when.' }) }),
});
errorType(InvitationForSomebodyElse, {
  name: 'InvitationForSomebodyElse',
  description: 'The invitation was sent to another e-mail address than that of your account.',
  interfaces: [ErrorInterface],
});

const membershipSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      membership: t.prismaField({
        type: MembershipRef,
        description: 'The membership.',
        resolve: (query, { id }, _, { app }) => app.db.membership.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const invitationSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      invitation: t.prismaField({
        type: InvitationRef,
        nullable: true,
        description: 'The invitation; null when it was answered meanwhile.',
        resolve: (query, { id }, _, { app }) => app.db.invitation.findUnique({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

/** What is left of something that ended. */
const ended = (name: string, type: 'Membership' | 'Invitation', description: string) => {
  const field = type === 'Membership' ? ('membershipId' as const) : ('invitationId' as const);
  return builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      [field]: t.id({ description: 'Global id that it had.', resolve: ({ id }) => globalId(type, id) }),
      eventCursor: t.string(eventCursor),
    }),
  });
};

const InvitationPreviewRef = builder.objectRef<InvitationPreview>('InvitationPreview').implement({
  description: 'What an invitation is for, told to whoever has its token.',
  fields: (t) => ({
    workspaceName: t.exposeString('workspaceName', { description: 'Name of the workspace.' }),
    email: t.exposeString('email', { description: 'Address of the account that may accept it.' }),
    role: t.expose('role', { type: RoleEnum, description: 'What they become.' }),
    expiresAt: t.expose('expiresAt', { type: 'DateTime', description: 'It cannot be accepted from then on.' }),
  }),
});

const membershipId = { description: 'Global id of the membership.' };
const invitationId = { description: 'Global id of the invitation.' };
const token = { description: 'The token of the mail.' };

builder.queryFields((t) => ({
  invitation: t.field({
    access: 'public',
    type: InvitationPreviewRef,
    nullable: true,
    description: 'What a token is for; null when it is of no invitation, or of one that is not good any more.',
    args: { token: t.arg.string(token) },
    resolve: (_, args, { app }) => app.use(Invitations).preview(args.token),
  }),
}));

builder.mutationFields((t) => ({
  inviteMember: t.fieldWithInput({
    access: can.inviteMember,
    type: invitationSuccess('InviteMemberSuccess', 'They were asked by mail, whether or not they have an account.'),
    errors: failing(AlreadyMember, RateLimited, MailNotConfigured),
    description:
      'Asks somebody by mail to become a member; good for 7 days. An address that was asked already is asked anew, and the older mail is void.',
    input: {
      workspaceId: t.input.id(workspaceId),
      email: t.input.string({ description: 'E-mail address.' }),
      role: t.input.field({ type: RoleEnum, description: 'Not above your own.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Invitations).inviteMember(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  resendInvitation: t.fieldWithInput({
    access: can.resendInvitation,
    type: invitationSuccess('ResendInvitationSuccess', 'They were asked again; the older mail is void.'),
    errors: failing(RateLimited, MailNotConfigured),
    description: 'Sends an invitation again, in your name, for another 7 days.',
    input: { invitationId: t.input.id(invitationId) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Invitations).resendInvitation(actor, rowId('Invitation', input.invitationId)),
  }),
  revokeInvitation: t.fieldWithInput({
    access: can.revokeInvitation,
    type: ended('RevokeInvitationSuccess', 'Invitation', 'Nobody can accept it any more.'),
    errors: failing(),
    description: 'Takes an invitation back.',
    input: { invitationId: t.input.id(invitationId) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Invitations).revokeInvitation(actor, rowId('Invitation', input.invitationId)),
  }),
  acceptInvitation: t.fieldWithInput({
    access: can.acceptInvitation,
    type: membershipSuccess('AcceptInvitationSuccess', 'You are a member now.'),
    errors: failing(InvitationInvalid, InvitationExpired, InvitationForSomebodyElse, AlreadyMember),
    description:
      'Accepts an invitation that was sent to the address of your account. That also proves that you read mail there.',
    input: { token: t.input.string(token) },
    resolve: async (_, { input }, context) => {
      const made = await context.app.use(Invitations).acceptInvitation(context.actor, input.token);
      // Rights are read once an operation: the rest of this one has those that it gained.
      context.actor = { ...context.actor, roles: new Map(context.actor.roles).set(made.workspaceId, made.role) };
      return made;
    },
  }),
  declineInvitation: t.fieldWithInput({
    access: can.declineInvitation,
    type: builder.objectRef<object>('DeclineInvitationSuccess').implement({
      description: 'The invitation has ended.',
      fields: (f) => ({ ok: f.boolean({ description: 'Always true.', resolve: () => true }) }),
    }),
    errors: failing(InvitationInvalid),
    description: 'Says no to an invitation; it needs no account.',
    input: { token: t.input.string(token) },
    resolve: async (_, { input }, { app, actor }) => {
      await app.use(Invitations).declineInvitation(actor, input.token);
      return {};
    },
  }),
  changeMemberRole: t.fieldWithInput({
    access: can.changeMemberRole,
    type: membershipSuccess('ChangeMemberRoleSuccess', 'The role was changed.'),
    errors: failing(LastOwner),
    description:
      "Changes a member's role. Neither the old nor the new one may be above your own. Invitations that they sent to more than they may give now end.",
    input: {
      membershipId: t.input.id(membershipId),
      role: t.input.field({ type: RoleEnum, description: 'The new role.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Members).changeMemberRole(actor, { ...input, membershipId: rowId('Membership', input.membershipId) }),
  }),
  transferOwnership: t.fieldWithInput({
    access: can.transferOwnership,
    type: membershipSuccess('TransferOwnershipSuccess', 'They own the workspace; you administrate it.'),
    errors: failing(LastOwner),
    description:
      'Makes another member an owner, and you, who are one, an administrator: both or none. Not somebody whose account is being deleted, where no other owner is left.',
    input: { membershipId: t.input.id({ description: 'Global id of the membership of who becomes an owner.' }) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Members).transferOwnership(actor, rowId('Membership', input.membershipId)),
  }),
  leaveWorkspace: t.fieldWithInput({
    access: can.leaveWorkspace,
    type: ended(
      'LeaveWorkspaceSuccess',
      'Membership',
      'You are no longer a member; your streams there and the keys that you made have ended.',
    ),
    errors: failing(LastOwner),
    description:
      'Ends your own membership. The last owner cannot leave: transfer the ownership, or delete the workspace.',
    input: { workspaceId: t.input.id(workspaceId) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Members).leaveWorkspace(actor, rowId('Workspace', input.workspaceId)),
  }),
  removeMember: t.fieldWithInput({
    access: can.removeMember,
    type: ended(
      'RemoveMemberSuccess',
      'Membership',
      'They are no longer a member; their streams, the keys that they made and the invitations that they sent have ended.',
    ),
    errors: failing(LastOwner),
    description: 'Ends a membership.',
    input: { membershipId: t.input.id(membershipId) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Members).removeMember(actor, rowId('Membership', input.membershipId)),
  }),
}));
