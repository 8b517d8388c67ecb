import { UserRef } from '#kernel/auth/schema.ts';
import type { SignedIn } from '#kernel/auth/sessions.ts';
import { Conflict, RateLimited } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { ErrorInterface, errorType, failing, guarded, newestFirst, ofCredential } from '#kernel/graphql/kit.ts';
import { MailNotConfigured } from '#kernel/mail/transport.ts';
import { NoPassword, ReauthenticationRequired, SignInRefused, TokenRefused } from '../errors.ts';
import { can } from '../policy.ts';
import { Accounts, Addresses, PasswordChanges } from '../service/index.ts';
import { done, isSelf, proof } from './shared.ts';

errorType(SignInRefused, {
  name: 'SignInRefused',
  description: 'The e-mail address or the password is wrong; which one is not said.',
  interfaces: [ErrorInterface],
});

errorType(TokenRefused, {
  name: 'TokenRefused',
  description: 'The link of a mail is not good: unknown, used, replaced by a newer one, or too old.',
  interfaces: [ErrorInterface],
});
const ProofEnum = builder.enumType('Proof', {
  description: 'How somebody proves once more who they are.',
  values: {
    PASSWORD: { description: 'By their password, in the input.' },
    SIGN_IN: { description: 'By signing in again: ten minutes count as fresh. For people who have no password.' },
  } as const,
});
errorType(ReauthenticationRequired, {
  name: 'ReauthenticationRequired',
  description: 'A session is not enough for this: prove once more who you are.',
  interfaces: [ErrorInterface],
  fields: (t) => ({ proof: t.expose('proof', { type: ProofEnum, description: 'How.' }) }),
});
errorType(NoPassword, {
  name: 'NoPassword',
  description: 'You have no password to change. A password reset sets one.',
  interfaces: [ErrorInterface],
});

const SessionRef = builder.prismaNode('Session', {
  id: { field: 'id' },
  description: 'A sign-in of yours from one device. Seen by yourself only, and by no key.',
  ...guarded('Session'),
  fields: (t) => ({
    method: t.exposeString('method'),
    address: t.exposeString('address', { nullable: true }),
    userAgent: t.exposeString('userAgent', { nullable: true }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was opened, or renewed last.' }),
    signedInAt: t.expose('signedInAt', { type: 'DateTime', description: 'When you proved who you are.' }),
    lastSeenAt: t.expose('lastSeenAt', { type: 'DateTime', description: 'Last use, to the minute.' }),
    expiresAt: t.expose('expiresAt', { type: 'DateTime', description: 'When it ends by itself.' }),
    current: t.boolean({
      ...ofCredential,
      description: 'Whether it is the one that asks.',
      resolve: ({ id }, _, { actor }) => actor.kind === 'SESSION' && actor.credentialId === id,
    }),
  }),
});

builder.prismaObjectFields(UserRef, (t) => ({
  emailVerified: t.boolean({
    nullable: true,
    description: 'Whether you proved that you read mail at your address. Null for everybody but yourself.',
    resolve: (user, _, { actor }) => (isSelf(user, actor) ? user.emailVerifiedAt !== null : null),
  }),
  sessions: t.field({
    type: [SessionRef],
    nullable: true,
    description: 'Your sessions that are good, newest first, at most 100. Null for everybody but yourself.',
    resolve: (user, _, { app, actor }) =>
      isSelf(user, actor)
        ? app.db.session.findMany({
            where: { userId: user.id, endedAt: null, expiresAt: { gt: new Date() } },
            orderBy: newestFirst,
            take: 100,
          })
        : null,
  }),
}));

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

const email = { description: 'E-mail address.' };
const newPassword = {
  description: '12 to 200 characters that are not easy to guess, nor known from a breach where this server asks.',
};
const token = { description: 'The secret of the link in the mail.' };
const nameOfPerson = { description: 'Name shown to other members, 1 to 120 characters.' };

builder.mutationFields((t) => ({
  signUp: t.fieldWithInput({
    access: can.signUp,
    type: signedIn('SignUpSuccess', 'The account was made, and its owner is signed in.'),
    errors: failing(Conflict, RateLimited),
    description:
      'Registers a person with a password, signs them in, and mails them a link that verifies their address.',
    input: {
      email: t.input.string(email),
      password: t.input.string(newPassword),
      name: t.input.string(nameOfPerson),
    },
    resolve: async (_, { input }, context) => {
      const session = await context.app.use(Accounts).signUp(context.actor, input);
      context.setSession?.(session);
      // The rest of this operation is theirs.
      context.actor = await context.app.actors.authenticate({ session: session.token }, context.actor.origin);
      return session;
    },
  }),
  signIn: t.fieldWithInput({
    access: can.signIn,
    type: signedIn('SignInSuccess', 'The person is signed in.'),
    errors: failing(SignInRefused, RateLimited),
    description: 'Signs in with a password. The session is a new one, whatever the request came with.',
    input: { email: t.input.string(email), password: t.input.string({ description: 'The password.' }) },
    resolve: async (_, { input }, context) => {
      const session = await context.app.use(Accounts).signIn(context.actor, input);
      context.setSession?.(session);
      // The rest of this operation is theirs.
      context.actor = await context.app.actors.authenticate({ session: session.token }, context.actor.origin);
      return session;
    },
  }),
  refreshSession: t.field({
    access: can.refreshSession,
    type: signedIn('RefreshSessionSuccess', 'The session has a new token and a new end.'),
    errors: failing(),
    description:
      'Gives the session that asks a new token, before the old one expires; that is good for 30 more seconds. However often it is renewed, a session ends some time after the sign-in.',
    resolve: async (_, __, context) => {
      const session = await context.app.use(Accounts).refreshSession(context.actor);
      context.setSession?.(session);
      return session;
    },
  }),
  signOut: t.field({
    access: can.signOut,
    type: builder.objectRef<object>('SignOutSuccess').implement({
      description: 'The session has ended and its cookie was cleared.',
      fields: (f) => ({ ok: f.boolean({ description: 'Always true.', resolve: () => true }) }),
    }),
    errors: failing(),
    description: 'Ends the session that asks, its open streams included, and clears its cookie.',
    resolve: async (_, __, { app, actor, setSession }) => {
      await app.use(Accounts).signOut(actor);
      setSession?.(null);
      return {};
    },
  }),
  signOutEverywhere: t.field({
    access: can.signOutEverywhere,
    type: builder.objectRef<object>('SignOutEverywhereSuccess').implement({
      description: 'Every session has ended.',
      fields: (f) => ({ ok: f.boolean({ description: 'Always true.', resolve: () => true }) }),
    }),
    errors: failing(),
    description: 'Ends every session of yours on every device, open streams included. API keys stay.',
    resolve: async (_, __, { app, actor, setSession }) => {
      await app.use(Accounts).signOutEverywhere(actor);
      setSession?.(null);
      return {};
    },
  }),
  endSession: t.fieldWithInput({
    access: can.endSession,
    type: done('EndSessionSuccess', 'The session has ended, open streams included.'),
    errors: failing(),
    description: 'Ends one session of yours.',
    input: { id: t.input.id({ description: 'Global id of the session.' }) },
    resolve: async (_, { input }, { app, actor }) => {
      await app.use(Accounts).endSession(actor, rowId('Session', input.id));
      return {};
    },
  }),
  verifyEmail: t.fieldWithInput({
    access: can.verifyEmail,
    type: done('VerifyEmailSuccess', 'The address is verified, and is that of the account.'),
    errors: failing(TokenRefused, Conflict, RateLimited),
    description: 'Verifies the address that a link was mailed to. Nobody needs to be signed in.',
    input: { token: t.input.string(token) },
    resolve: async (_, { input }, { app, actor }) => {
      await app.use(Addresses).verifyEmail(actor, input);
      return {};
    },
  }),
  resendVerification: t.field({
    access: can.resendVerification,
    type: done('ResendVerificationSuccess', 'A new link is under way, unless your address is verified already.'),
    errors: failing(RateLimited, MailNotConfigured),
    description: 'Mails a new link that verifies your address; the older one is void.',
    resolve: async (_, __, { app, actor }) => {
      await app.use(Addresses).resendVerification(actor);
      return {};
    },
  }),
  changeEmail: t.fieldWithInput({
    access: can.changeEmail,
    type: done('ChangeEmailSuccess', 'A link is under way to the new address, which takes effect by it.'),
    errors: failing(ReauthenticationRequired, Conflict, RateLimited, MailNotConfigured),
    description: 'Asks for another e-mail address. It takes effect when the link that is mailed there is followed.',
    input: {
      newEmail: t.input.string({ description: 'The new address.' }),
      password: t.input.string(proof),
    },
    resolve: async (_, { input }, { app, actor }) => {
      await app.use(Addresses).changeEmail(actor, input);
      return {};
    },
  }),
  changePassword: t.fieldWithInput({
    access: can.changePassword,
    type: done('ChangePasswordSuccess', 'The password was changed; every other session of yours has ended.'),
    errors: failing(ReauthenticationRequired, NoPassword, RateLimited),
    description: 'Changes your password, and ends every other session of yours.',
    input: {
      currentPassword: t.input.string({ description: 'The password that is good now.' }),
      newPassword: t.input.string(newPassword),
    },
    resolve: async (_, { input }, { app, actor }) => {
      await app.use(PasswordChanges).changePassword(actor, input);
      return {};
    },
  }),
  requestPasswordReset: t.fieldWithInput({
    access: can.requestPasswordReset,
    type: done(
      'RequestPasswordResetSuccess',
      'If there is an account with this address, a link is under way. Whether there is one is not said.',
    ),
    errors: failing(RateLimited, MailNotConfigured),
    description: 'Mails a link that sets a new password, good for one hour.',
    input: { email: t.input.string(email) },
    resolve: async (_, { input }, { app, actor }) => {
      await app.use(PasswordChanges).requestPasswordReset(actor, input);
      return {};
    },
  }),
  resetPassword: t.fieldWithInput({
    access: can.resetPassword,
    type: done('ResetPasswordSuccess', 'The password is set and every session has ended. Sign in with it.'),
    errors: failing(TokenRefused, RateLimited),
    description: 'Sets a password by the link of a mail. Ends every session; the address counts as verified.',
    input: { token: t.input.string(token), newPassword: t.input.string(newPassword) },
    resolve: async (_, { input }, { app, actor }) => {
      await app.use(PasswordChanges).resetPassword(actor, input);
      return {};
    },
  }),
}));
