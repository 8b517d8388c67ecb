import { UserRef } from '#kernel/auth/schema.ts';
import type { SignedIn } from '#kernel/auth/sessions.ts';
import { Conflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { ErrorInterface, errorType, failing } from '#kernel/graphql/kit.ts';
import { SignInRefused } from '../errors.ts';
import { can } from '../policy.ts';
import { Accounts } from '../service/index.ts';

errorType(SignInRefused, {
  name: 'SignInRefused',
  description: 'The e-mail address or the password is wrong; which one is not said.',
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

const email = { description: 'E-mail address.' };
const nameOfPerson = { description: 'Name shown to other members, 1 to 120 characters.' };

builder.mutationFields((t) => ({
  signUp: t.fieldWithInput({
    access: can.signUp,
    type: signedIn('SignUpSuccess', 'The account was made, and its owner is signed in.'),
    errors: failing(Conflict),
    description: 'Registers a person with a password and signs them in.',
    input: {
      email: t.input.string(email),
      password: t.input.string({ description: '12 to 200 characters.' }),
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
    errors: failing(SignInRefused),
    description: 'Signs in with a password.',
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
}));
