import { builder } from '#kernel/graphql/builder.ts';
import { ApiKeyRef, MembershipRef, RoleEnum, UserRef, WorkspaceRef } from '#kernel/auth/schema.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { cursorOf, descriptionOfCursor, ErrorInterface, errorType, failing } from '#kernel/graphql/kit.ts';
import { Conflict } from '#kernel/errors.ts';
import type { Appended } from '#kernel/db/transact.ts';
import { LastOwner, SignInRefused } from './errors.ts';
import { Identity, type SignedIn } from './service.ts';

errorType(SignInRefused, {
  name: 'SignInRefused',
  description: 'The e-mail address or the password is wrong; which one is not said.',
  interfaces: [ErrorInterface],
});
errorType(LastOwner, {
  name: 'LastOwner',
  description: 'A workspace must keep an owner.',
  interfaces: [ErrorInterface],
});

const signedIn = (name: string, description: string) =>
  builder.objectRef<SignedIn>(name).implement({
    description,
    fields: (t) => ({
      user: t.prismaField({
        type: UserRef,
        description: 'The person.',
        resolve: (query, { userId }, _, { app }) => app.db.user.findUniqueOrThrow({ ...query, where: { id: userId } }),
      }),
      token: t.exposeString('token', {
        description:
          'Session token for `Authorization: Bearer …`. Browsers do not need it: an HttpOnly cookie was set.',
      }),
      expiresAt: t.expose('expiresAt', { type: 'DateTime', description: 'When the session ends by itself.' }),
    }),
  });

const eventCursor = (written: { workspaceId: string; event: Appended | null }) =>
  cursorOf(written.workspaceId, written.event);

interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
}

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
const nameOfPerson = { description: 'Name shown to other members, 1 to 120 characters.' };
const workspaceId = { description: 'Global id of the workspace.' };
const membershipId = { description: 'Global id of the membership.' };

builder.mutationFields((t) => ({
  signUp: t.fieldWithInput({
    type: signedIn('SignUpSuccess', 'The account was made, and its owner is signed in.'),
    errors: failing(Conflict),
    description: 'Registers a person with a password and signs them in.',
    input: {
      email: t.input.string(email),
      password: t.input.string({ description: '12 to 200 characters.' }),
      name: t.input.string(nameOfPerson),
    },
    resolve: async (_, { input }, context) => {
      const session = await context.app.use(Identity).signUp(context.actor, input);
      context.setSession?.(session);
      // The rest of this operation is theirs.
      context.actor = await context.app.actors.authenticate({ session: session.token });
      return session;
    },
  }),
  signIn: t.fieldWithInput({
    type: signedIn('SignInSuccess', 'The person is signed in.'),
    errors: failing(SignInRefused),
    description: 'Signs in with a password.',
    input: { email: t.input.string(email), password: t.input.string({ description: 'The password.' }) },
    resolve: async (_, { input }, context) => {
      const session = await context.app.use(Identity).signIn(context.actor, input);
      context.setSession?.(session);
      // The rest of this operation is theirs.
      context.actor = await context.app.actors.authenticate({ session: session.token });
      return session;
    },
  }),
  signOut: t.field({
    type: builder.objectRef<object>('SignOutSuccess').implement({
      description: 'The session cookie of this browser was cleared.',
      fields: (f) => ({ ok: f.boolean({ description: 'Always true.', resolve: () => true }) }),
    }),
    errors: failing(),
    description: 'Clears the session cookie of this browser. The session itself goes on: see `signOutEverywhere`.',
    resolve: (_, __, { setSession }) => {
      setSession?.(null);
      return {};
    },
  }),
  signOutEverywhere: t.field({
    type: builder.objectRef<object>('SignOutEverywhereSuccess').implement({
      description: 'Every session has ended.',
      fields: (f) => ({ ok: f.boolean({ description: 'Always true.', resolve: () => true }) }),
    }),
    errors: failing(),
    description: 'Ends every session of yours on every device, open streams included. API keys stay.',
    resolve: async (_, __, { app, actor, setSession }) => {
      await app.use(Identity).signOutEverywhere(actor);
      setSession?.(null);
      return {};
    },
  }),
  createWorkspace: t.fieldWithInput({
    type: builder.objectRef<Written>('CreateWorkspaceSuccess').implement({
      description: 'The workspace was created; you own it.',
      fields: (f) => ({
        workspace: f.prismaField({
          type: WorkspaceRef,
          description: 'The workspace.',
          resolve: (query, { id }, __, { app }) => app.db.workspace.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        eventCursor: f.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
      }),
    }),
    errors: failing(Conflict),
    description: 'Creates a workspace that you own.',
    input: {
      name: t.input.string({ description: 'Name shown to members, 1 to 120 characters.' }),
      slug: t.input.string({ description: 'Short name in addresses: 1 to 63 lower-case letters, digits and dashes.' }),
    },
    resolve: async (_, { input }, context) => {
      const made = await context.app.use(Identity).createWorkspace(context.actor, input);
      // Rights are read once an operation: the rest of this one has those that it gained.
      context.actor = { ...context.actor, roles: new Map(context.actor.roles).set(made.id, 'OWNER') };
      return made;
    },
  }),
  addMember: t.fieldWithInput({
    type: membershipSuccess('AddMemberSuccess', 'They are a member now.'),
    errors: failing(Conflict),
    description: 'Makes a registered person a member.',
    input: {
      workspaceId: t.input.id(workspaceId),
      email: t.input.string(email),
      role: t.input.field({ type: RoleEnum, description: 'Not above your own.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Identity).addMember(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  changeMemberRole: t.fieldWithInput({
    type: membershipSuccess('ChangeMemberRoleSuccess', 'The role was changed.'),
    errors: failing(LastOwner),
    description: "Changes a member's role. Neither the old nor the new one may be above your own.",
    input: {
      membershipId: t.input.id(membershipId),
      role: t.input.field({ type: RoleEnum, description: 'The new role.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Identity).changeMemberRole(actor, { ...input, membershipId: rowId('Membership', input.membershipId) }),
  }),
  removeMember: t.fieldWithInput({
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
      app.use(Identity).removeMember(actor, rowId('Membership', input.membershipId)),
  }),
  createApiKey: t.fieldWithInput({
    type: builder.objectRef<Written & { key: string }>('CreateApiKeySuccess').implement({
      description: 'The key was made.',
      fields: (f) => ({
        apiKey: f.prismaField({
          type: ApiKeyRef,
          description: 'What is kept of it.',
          resolve: (query, { id }, __, { app }) => app.db.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        key: f.exposeString('key', { description: 'The key, for the header `X-API-Key`. It is shown this once.' }),
        eventCursor: f.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
      }),
    }),
    errors: failing(),
    description: 'Makes an API key for one workspace.',
    input: {
      workspaceId: t.input.id(workspaceId),
      name: t.input.string({ description: 'What it is for, 1 to 120 characters.' }),
      role: t.input.field({ type: RoleEnum, description: 'Not above your own.' }),
      expiresAt: t.input.field({
        type: 'DateTime',
        required: false,
        description: 'Refused from then on; without it, it does not expire.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Identity).createApiKey(actor, { ...input, workspaceId: rowId('Workspace', input.workspaceId) }),
  }),
  revokeApiKey: t.fieldWithInput({
    type: builder.objectRef<Written>('RevokeApiKeySuccess').implement({
      description: 'The key is refused from now on, and its streams have ended.',
      fields: (f) => ({
        apiKey: f.prismaField({
          type: ApiKeyRef,
          description: 'The key.',
          resolve: (query, { id }, __, { app }) => app.db.apiKey.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        eventCursor: f.string({ nullable: true, description: descriptionOfCursor, resolve: eventCursor }),
      }),
    }),
    errors: failing(),
    description: 'Ends an API key.',
    input: { id: t.input.id({ description: 'Global id of the key.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(Identity).revokeApiKey(actor, rowId('ApiKey', input.id)),
  }),
}));
