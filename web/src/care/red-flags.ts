/**
 * Emergencies told from a question by fixed patterns (`red-flags.json`), whatever the model says.
 *
 * Negated mentions ("denies chest pain, dyspnoea or syncope") raise nothing, by the rules of NegEx
 * (Chapman et al. 2001): a trigger negates what follows it up to the sentence's end or a word that
 * turns it. When in doubt a notice is shown.
 */

import data from "./red-flags.json";

export interface RedFlag {
  readonly id: string;
  readonly title: string;
  readonly call: string;
  readonly advice: string;
}

/** One call for all of them: the crisis line's names the emergency number too. */
export function whomToCall(flags: readonly RedFlag[]): string {
  return flags.find(({ call }) => call === data.crisis)?.call ?? data.emergency;
}

interface Rule {
  readonly flag: RedFlag;
  readonly patterns: readonly RegExp[];
  readonly excluded: readonly RegExp[];
}

const CALLS: Readonly<Record<string, string>> = { emergency: data.emergency, crisis: data.crisis };

const RULES: readonly Rule[] = data.flags.map(({ id, title, call, advice, patterns, excluded }) => ({
  flag: { id, title, advice, call: CALLS[call] ?? data.emergency },
  patterns: patterns.map((pattern) => new RegExp(pattern, "gi")),
  excluded: excluded.map((pattern) => new RegExp(pattern, "gi")),
}));

const NEGATION =
  /\b(?:no|not|denies|denied|denying|deny|without|negative for|absence of|absent|free of|never (?:had|has)|does(?: not|n't) have|do(?: not|n't) have|did(?: not|n't) have|ha(?:s|ve|d)(?: not|n't) (?:had|got|any)|(?:is|are|was|were|has|have|had|does|do|did)n't|ruled out(?: for)?|rules out|excluded|lack of|nor)\b/gi;
/** Sounds like a negation and is none. */
const FALSE_NEGATION =
  /\b(?:no (?:improvement|relief|doubt|change|better|longer|response|idea|reason|answer|wonder|one|matter)|not only|not sure|not certain|(?:not|\w+n't) (?:been )?(?:improv|respond|resolv|reliev|go|subsid|sett|eas|stop|help|work|get|wak|fade|blanch|feed|drink|mov|know|sure|want|feel|look|like|seem|think|tolerat|cop|sleep|eat|speak|talk|see)\w*|cannot (?:rule out|exclude)|not (?:been )?(?:ruled out|excluded)|not to (?:miss|forget)|without (?:relief|improvement|warning|delay)|no pulse|(?:not|\w+n't) breathing|no wet (?:nappies|diapers)|no reason to live|(?:do not|don't) want to (?:live|be alive))\b/gi;
const TURN =
  /\b(?:but|however|although|though|except|apart from|yet|now|since then|presents?|presenting|complains?|complaining|reports?|suddenly|started|woke|and (?:then |now )?(?:i|he|she|they|we|it|my|his|her|their|the)|so (?:i|he|she|they)|because|when|while|until|after which|developed|develops|who has|and has|and is|with)\b|[;:]/gi;
const DENIED_AFTER = /^[\s,:–-]*(?:is |was |were |has been |have been )?(?:denied|absent|negative|ruled out|excluded|no\b(?! relief)|none|unlikely)/i;

/** As much as the question field takes. */
export const LONGEST = 20_000;

/** The emergencies that a question speaks of, each once. */
export function redFlags(question: string): RedFlag[] {
  const text = question.slice(0, LONGEST).normalize("NFKC").replace(/[\u2018\u2019\u02bc\u00b4`]/g, "'").replace(/[\u2010-\u2015]/g, "-").replace(/[\u00ad\u200b-\u200d\ufeff]/g, "").replace(/\s+/g, " ");
  const sentences = text.split(/(?<=[.!?])\s+/);
  return RULES.filter((rule) => sentences.some((sentence) => raises(rule, sentence))).map(({ flag }) => flag);
}

function raises({ patterns, excluded }: Rule, sentence: string): boolean {
  const harmless = excluded.flatMap((pattern) => spans(pattern, sentence));
  const denied = negated(sentence);
  return patterns.some((pattern) =>
    spans(pattern, sentence).some(
      ([start, end]) =>
        !harmless.some(([from, to]) => from < end && start < to) &&
        !denied.some(([from, to]) => from <= start && start < to) &&
        // "Pregnant, no bleeding": the denial stands within, right before the last of it.
        !denied.some(([from]) => start < from && from < end && !sentence.slice(from, end).includes(",")) &&
        !DENIED_AFTER.test(sentence.slice(end)),
    ),
  );
}

type Span = readonly [start: number, end: number];

function spans(pattern: RegExp, text: string): Span[] {
  return [...text.matchAll(pattern)].map((match) => [match.index, match.index + match[0].length]);
}

/** Stretches of a sentence that a negation covers, from the end of its trigger on. */
function negated(sentence: string): Span[] {
  const unreal = spans(FALSE_NEGATION, sentence);
  const turns = spans(TURN, sentence).map(([start]) => start);
  return spans(NEGATION, sentence)
    .filter(([start, end]) => !unreal.some(([from, to]) => from < end && start < to))
    .map(([, end]) => [end, turns.find((turn) => turn >= end) ?? sentence.length]);
}
