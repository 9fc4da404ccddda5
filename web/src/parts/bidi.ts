/** Characters that reorder what is read: overrides, embeddings and isolates of direction. */
const BIDI = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** The text in the order that its characters stand in. */
export const unturned = (text: string): string => text.replace(BIDI, "");
