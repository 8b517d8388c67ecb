import { MembershipRef, RoleEnum } from '#kernel/auth/schema.ts';
import { Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { descriptionOfCursor, ErrorInterface, errorType, failing } from '#kernel/graphql/kit.ts';
import { LastOwner } from '../errors.ts';
import { can } from '../policy.ts';
import { Members } from '../service/index.ts';
import { eventCursor, workspaceId, type Written } from './shared.ts';

errorType(LastOwner, {
  name: 'LastOwner',
  description: 'A workspace must keep an owner.',
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
      eventCursor: t.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
    }),
  });

const email = { description: 'E-mail address.' };
const membershipId = { description: 'Global id of the membership.' };

builder.mutationFields((t) => ({
  addMember: t.fieldWithInput({
    access: can.addMember,
    type: membershipSuccess('AddMemberSuccess', 'They are a member now.'),
    errors: failing(Conflict),
    description: 'Makes a registered person a member.',
    input: {
      workspaceId: t.input.id(workspaceId),
      email: t.input.string(email),
      role: t.input.field({ type: RoleEnum, description: 'Not above your own.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Members).addMember(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  changeMemberRole: t.fieldWithInput({
    access: can.changeMemberRole,
    type: membershipSuccess('ChangeMemberRoleSuccess', 'The role was changed.'),
    errors: failing(LastOwner),
    description: "Changes a member's role. Neither the old nor the new one may be above your own.",
    input: {
      membershipId: t.input.id(membershipId),
      role: t.input.field({ type: RoleEnum, description: 'The new role.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Members).changeMemberRole(actor, { ...input, membershipId: rowId('Membership', input.membershipId) }),
  }),
  removeMember: t.fieldWithInput({
    access: can.removeMember,
    type: builder.objectRef<Written>('RemoveMemberSuccess').implement({
      description: 'They are no longer a member; their streams and the keys that they made have ended.',
      fields: (f) => ({
        membershipId: f.id({
          description: 'Global id that the membership had.',
          resolve: ({ id }) => globalId('Membership', id),
        }),
        eventCursor: f.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
      }),
    }),
    errors: failing(LastOwner),
    description: 'Ends a membership.',
    input: { membershipId: t.input.id(membershipId) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Members).removeMember(actor, rowId('Membership', input.membershipId)),
  }),
}));
