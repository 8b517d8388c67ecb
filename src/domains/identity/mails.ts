/** Mails to people about their accounts. Nothing of a mail's link is ever logged. */
export interface MailText {
  readonly subject: string;
  readonly text: string;
}

/**
 * A link of the application. The secret stands in the fragment, which browsers send to no server and put into no
 * `Referer`; the page behind it hands it to the API.
 */
const link = (appUrl: string, page: string, token: string): string => `${appUrl}/${page}#token=${token}`;

/** One line of what somebody wrote. */
const oneLine = (text: string): string => text.replaceAll(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]+/gu, ' ');

/** Without a name where nobody proved that the mail is theirs: a stranger would choose what it begins with. */
const letter = (name: string | null, ...paragraphs: string[]): string =>
  [name === null ? 'Hello,' : `Hello ${oneLine(name)},`, ...paragraphs].join('\n\n').concat('\n');

export const verificationMail = (of: { appUrl: string; token: string }): MailText => ({
  subject: 'Please confirm your e-mail address',
  text: letter(
    null,
    'an account was made with this e-mail address. If that was you, confirm the address within 24 hours:',
    link(of.appUrl, 'verify-email', of.token),
    'If it was not you, do not follow the link: whoever made the account would have it in your name.',
  ),
});

export const emailChangeMail = (of: { appUrl: string; token: string }): MailText => ({
  subject: 'Please confirm your new e-mail address',
  text: letter(
    null,
    'this is to become the e-mail address of your account. Confirm it within 24 hours:',
    link(of.appUrl, 'verify-email', of.token),
    'If you did not ask for that, do not follow the link: without it nothing changes.',
  ),
});

export const emailChangeAskedMail = (of: { name: string; newEmail: string }): MailText => ({
  subject: 'Somebody asked for another e-mail address for your account',
  text: letter(
    of.name,
    `the e-mail address of your account is to become ${of.newEmail}. It will be, when the link that was mailed there is followed within 24 hours.`,
    'If you did not ask for that, somebody knows your password: change it, which makes the link void.',
  ),
});

export const emailChangedMail = (of: { name: string; newEmail: string }): MailText => ({
  subject: 'Your e-mail address was changed',
  text: letter(
    of.name,
    `the e-mail address of your account is ${of.newEmail} from now on. Mail to this address ends here.`,
    'If you did not do that, somebody knows your password: tell the operator of this server at once.',
  ),
});

export const passwordResetMail = (of: { appUrl: string; name: string; token: string }): MailText => ({
  subject: 'Set a new password',
  text: letter(
    of.name,
    'somebody asked for a new password for your account. If that was you, set it within one hour:',
    link(of.appUrl, 'reset-password', of.token),
    'If it was not you, there is nothing to do: your password stays as it is.',
  ),
});

export const passwordChangedMail = (of: { name: string }): MailText => ({
  subject: 'Your password was changed',
  text: letter(
    of.name,
    'the password of your account was changed, and every other session of yours has ended.',
    'If you did not do that, ask for a password reset at once.',
  ),
});

export const identityLinkedMail = (of: { name: string; provider: string }): MailText => ({
  subject: 'Another way to sign in was added to your account',
  text: letter(
    of.name,
    `whoever is you at ${oneLine(of.provider)} can sign in to your account from now on.`,
    'If that is not you, end the link in your account, sign out everywhere, and set another password.',
  ),
});

export const identityUnlinkedMail = (of: { name: string; provider: string }): MailText => ({
  subject: 'A way to sign in was removed from your account',
  text: letter(
    of.name,
    `nobody signs in to your account by ${oneLine(of.provider)} any more.`,
    'If you did not do that, sign out everywhere, and set another password.',
  ),
});

export const accountDeletedMail = (of: { name: string }): MailText => ({
  subject: 'Your account was deleted',
  text: letter(of.name, 'your account and what belonged to it were deleted, as you asked. This is the last mail.'),
});

/** Goes to an address that may be nobody's here, and says so little that it is of no use to a spammer. */
export const invitationMail = (of: {
  appUrl: string;
  workspace: string;
  inviter: { name: string; email: string };
  email: string;
  role: string;
  expiresAt: Date;
  token: string;
}): MailText => ({
  subject: `Invitation to ${oneLine(of.workspace)}`,
  text: letter(
    of.email,
    `${oneLine(of.inviter.name)} (${of.inviter.email}) asks you to join the workspace "${oneLine(of.workspace)}" as ${of.role.toLowerCase()}. Sign in or sign up with this address to accept, until ${of.expiresAt.toISOString()}:`,
    link(of.appUrl, 'invitation', of.token),
    'The link is for you alone. If you do not know what this is about, there is nothing to do.',
  ),
});
